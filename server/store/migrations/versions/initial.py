"""Create all tables: jobs and their images, annotations, projects."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "initial"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = (
    "jobs", "annotations", "job_images", "projects", "corrections", "runs", "models", "backtests", "promotions",
)  # fmt: skip


def upgrade() -> None:
    _create_job_tables()
    op.create_table(
        "projects",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("storage_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("base_sha256", sa.String(64), nullable=False),
        *_create_texts("tasks"),
        sa.Column("holdout_share", sa.Double, nullable=False),
        sa.Column("folder", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("storage_id", "name"),
    )
    op.create_table(
        "corrections",
        sa.Column("id", _ID, primary_key=True),
        _create_reference("projects", "project_id", index=True),
        sa.Column("image_sha256", sa.String(64), nullable=False),
        sa.Column("label_kind", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        *_create_texts("annotations"),
        sa.Column("complete", sa.Boolean, nullable=False),
        *_create_texts("image_name", "author"),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("project_id", "image_sha256", "label_kind", "version"),
    )
    _create_model_tables()


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)


def _create_job_tables() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("output", sa.Text, nullable=False, unique=True),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("recipe_hash", sa.String(64), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("model_hash", sa.String(64), nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "annotations",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_sha256", sa.String(64), nullable=False),
        sa.Column("recipe_hash", sa.String(64), nullable=False),
        sa.Column("model_hash", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("annotations", sa.Text, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("image_sha256", "recipe_hash", "model_hash", "version"),
    )
    op.create_table(
        "job_images",
        sa.Column("job_id", _ID, sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("position", _ID, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, server_default="waiting"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failure_kind", sa.String(32), nullable=False, server_default=""),
        sa.Column("failure_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("available_at", sa.Double, nullable=False, server_default="0"),
        sa.Column("annotations_id", _ID, sa.ForeignKey("annotations.id")),
    )
    op.create_index("job_images_by_state", "job_images", ["job_id", "state", "position"])
    op.create_index("job_images_by_failure_kind", "job_images", ["job_id", "state", "failure_kind"])


def _create_model_tables() -> None:
    op.create_table(
        "runs",
        sa.Column("id", _ID, primary_key=True),
        _create_reference("projects", "project_id", index=True),
        sa.Column("initial_model_id", _ID),
        *_create_texts("config"),
        sa.Column("folder", sa.String(64), nullable=False),
        sa.Column("dataset_hash", sa.String(64), nullable=False),
        sa.Column("train_images", sa.Integer, nullable=False),
        sa.Column("holdout_images", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *_create_texts("reason", "metrics", "author"),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "models",
        sa.Column("id", _ID, primary_key=True),
        _create_reference("projects", "project_id", index=True),
        _create_reference("runs", "run_id", nullable=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("folder", sa.String(64), nullable=False, server_default=""),
        sa.Column("ensemble", sa.Text, nullable=False, server_default="null"),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "backtests",
        sa.Column("id", _ID, primary_key=True),
        _create_reference("projects", "project_id", index=True),
        _create_reference("models", "challenger_id"),
        _create_reference("models", "champion_id", nullable=True),
        sa.Column("dataset_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *_create_texts("reason", "image_counts", "comparison", "forgetting", "author"),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "promotions",
        sa.Column("id", _ID, primary_key=True),
        _create_reference("projects", "project_id", index=True),
        sa.Column("task", sa.String(64), nullable=False),
        _create_reference("models", "model_id", nullable=True),
        _create_reference("backtests", "backtest_id", nullable=True),
        sa.Column("is_rollback", sa.Boolean, nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        *_create_texts("reason", "author"),
        sa.Column("created", sa.Double, nullable=False),
    )


def _create_reference(table: str, name: str, *, nullable: bool = False, index: bool = False) -> sa.Column[Any]:
    """Returns a foreign key column; deleting the referenced row deletes this row too."""
    return sa.Column(name, _ID, sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=nullable, index=index)


def _create_texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]
