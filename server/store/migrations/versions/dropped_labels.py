"""The labels that a recipe did not keep are counted with the annotations of an image."""

import sqlalchemy as sa
from alembic import op

revision = "dropped_labels"
down_revision = "withdrawn_corrections"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("annotations", sa.Column("dropped", sa.Text, nullable=True))
