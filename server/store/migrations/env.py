"""Run by Alembic, on the connection that `database.connect` hands over."""

from alembic import context

from server.store.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
