"""A correction can be withdrawn: by a further version, as rows are never changed."""

import sqlalchemy as sa
from alembic import op

revision = "withdrawn_corrections"
down_revision = "lasting_project_ids"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("corrections", sa.Column("withdrawn", sa.Boolean, nullable=False, server_default=sa.false()))
