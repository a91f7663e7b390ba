"""SQLite gives the ID of a deleted project to no other: a client that still knows it would change the new project."""

from alembic import op

revision = "lasting_project_ids"
down_revision = "initial"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # PostgreSQL never repeats an ID
        with op.batch_alter_table("projects", recreate="always", table_kwargs={"sqlite_autoincrement": True}):
            pass
