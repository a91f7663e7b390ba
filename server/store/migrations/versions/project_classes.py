"""A project can declare its classes."""

import sqlalchemy as sa
from alembic import op

revision = "project_classes"
down_revision = "image_stamps"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("classes", sa.Text, nullable=False, server_default="[]"))
