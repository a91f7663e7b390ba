"""The images of a job get a stamp, by which a job that is extended finds the files that have changed."""

import sqlalchemy as sa
from alembic import op

revision = "image_stamps"
down_revision = "dropped_labels"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job_images", sa.Column("stamp", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("job_images", "stamp")
