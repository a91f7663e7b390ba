"""Models that are made of others, and of no run."""

import sqlalchemy as sa
from alembic import op

revision = "combined_models"
down_revision = "projects"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    with op.batch_alter_table("models") as table:  # SQLite writes the table anew
        table.alter_column("run_id", existing_type=_ID, nullable=True)
        table.add_column(sa.Column("folder", sa.String(64), nullable=False, server_default=""))
        table.add_column(sa.Column("combined", sa.Text, nullable=False, server_default="null"))


def downgrade() -> None:
    op.execute("DELETE FROM models WHERE run_id IS NULL")
    with op.batch_alter_table("models") as table:
        table.drop_column("combined")
        table.drop_column("folder")
        table.alter_column("run_id", existing_type=_ID, nullable=False)
