"""Projects: corrections, fine-tunes, models, backtests and promotions."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "projects"
down_revision = "first_tables"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TABLES = ("projects", "corrections", "runs", "models", "backtests", "promotions")


def _to(table: str, name: str, *, nullable: bool = False, index: bool = False) -> sa.Column[Any]:
    """A reference that goes with what it refers to."""
    return sa.Column(name, _ID, sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), nullable=nullable, index=index)


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("home", sa.String(32), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("base", sa.String(64), nullable=False),
        *_texts("tasks"),
        sa.Column("held_share", sa.Double, nullable=False),
        sa.Column("folder", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("home", "name"),
    )
    op.create_table(
        "corrections",
        sa.Column("id", _ID, primary_key=True),
        _to("projects", "project_id", index=True),
        sa.Column("picture", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        *_texts("annotations"),
        sa.Column("complete", sa.Boolean, nullable=False),
        *_texts("name", "author"),
        sa.Column("created", sa.Double, nullable=False),
        sa.UniqueConstraint("project_id", "picture", "kind", "version"),
    )
    op.create_table(
        "runs",
        sa.Column("id", _ID, primary_key=True),
        _to("projects", "project_id", index=True),
        *_texts("config"),
        sa.Column("folder", sa.String(64), nullable=False),
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("taught", sa.Integer, nullable=False),
        sa.Column("held", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *_texts("reason", "metrics", "author"),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("started", sa.Double),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "models",
        sa.Column("id", _ID, primary_key=True),
        _to("projects", "project_id", index=True),
        _to("runs", "run_id"),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created", sa.Double, nullable=False),
    )
    op.create_table(
        "backtests",
        sa.Column("id", _ID, primary_key=True),
        _to("projects", "project_id", index=True),
        _to("models", "challenger_id"),
        _to("models", "champion_id", nullable=True),
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        *_texts("reason", "tallies", "figures", "forgetting", "author"),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("ended", sa.Double),
    )
    op.create_table(
        "promotions",
        sa.Column("id", _ID, primary_key=True),
        _to("projects", "project_id", index=True),
        sa.Column("task", sa.String(64), nullable=False),
        _to("models", "model_id", nullable=True),
        _to("backtests", "backtest_id", nullable=True),
        sa.Column("back", sa.Boolean, nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        *_texts("reason", "author"),
        sa.Column("created", sa.Double, nullable=False),
    )


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)
