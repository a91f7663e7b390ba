"""The Alembic environment: runs migrations on the connection of `server.store.schema.upgrade`."""

from alembic import context

from server.store.tables import TableBase

context.configure(connection=context.config.attributes["connection"], target_metadata=TableBase.metadata)
with context.begin_transaction():
    context.run_migrations()
