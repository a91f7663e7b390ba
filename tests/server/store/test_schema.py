"""The tables of a database, and their upgrade."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from server.store import StoreError, schema
from server.store.jobs.job_store import JobStore
from server.store.tables import TableBase

# SQLite rewrites the table, to which other tables refer.
NEXT_MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("models") as table:
        table.alter_column("sha256", existing_type=sa.String(64), type_=sa.String(128))
        table.add_column(sa.Column("notes", sa.Text, nullable=False, server_default="none"))
"""


def create_engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))


def test_a_database_of_a_newer_florist_is_left_alone(url: str) -> None:
    with JobStore(url):
        pass
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer florist"):
        JobStore(url)


def test_the_migrations_create_the_tables(url: str) -> None:
    with JobStore(url):
        pass
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), TableBase.metadata) == []
    engine.dispose()


def test_an_upgrade_keeps_the_rows_that_refer_to_a_changed_table(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobStore(url) as store, store.database.begin_write() as connection:
        head = MigrationContext.configure(connection).get_current_revision() or ""
        for values in (
            "projects (storage_id, name, base_sha256, tasks, holdout_share, folder, created) "
            "VALUES ('here', 'birds', 'b', '[]', 0.25, 'folder', 1)",
            "models (project_id, task, sha256, created) VALUES (1, '<OD>', '5', 1)",
            "backtests (project_id, challenger_id, dataset_hash, state, reason, image_counts, comparison, forgetting, "
            "author, created) VALUES (1, 1, 'd', 'done', '', '[]', 'null', '{}', 'Ada', 1)",
            "promotions (project_id, task, model_id, backtest_id, is_rollback, forced, reason, author, created) "
            "VALUES (1, '<OD>', 1, 1, false, false, '', 'Ada', 1)",
        ):
            connection.exec_driver_sql(f"INSERT INTO {values}")
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations)
    (migrations / "versions" / "next.py").write_text(NEXT_MIGRATION.replace("{head}", head))
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)
    with JobStore(url) as store, store.database.begin_read() as connection:
        [model] = connection.execute(sa.text("SELECT id, sha256, notes FROM models")).all()
        assert tuple(model) == (1, "5", "none")
        assert connection.scalar(sa.text("SELECT challenger_id FROM backtests")) == 1
        assert connection.scalar(sa.text("SELECT model_id FROM promotions")) == 1


def test_the_first_upgrade_keeps_projects_and_their_ids(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations)
    for later in (migrations / "versions").glob("*.py"):
        if later.name not in ("__init__.py", "initial.py"):
            later.unlink()
    insert = (
        "INSERT INTO projects (storage_id, name, base_sha256, tasks, holdout_share, folder, created) "
        "VALUES ('here', '{0}', 'b', '[]', 0.25, '{0}', 1)"
    )
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", migrations)
        with JobStore(url) as store, store.database.begin_write() as connection:
            for name in ("birds", "cats"):
                connection.exec_driver_sql(insert.format(name))
            connection.exec_driver_sql(
                "INSERT INTO models (project_id, task, sha256, created) VALUES (2, '<OD>', '5', 1)"
            )
    with JobStore(url) as store, store.database.begin_write() as connection:
        rows = sa.text("SELECT p.id, p.name, m.id FROM projects p LEFT JOIN models m ON m.project_id = p.id ORDER BY 1")
        assert [tuple(row) for row in connection.execute(rows)] == [(1, "birds", None), (2, "cats", 1)]
        connection.exec_driver_sql("DELETE FROM models")
        connection.exec_driver_sql("DELETE FROM projects WHERE id = 2")
        connection.exec_driver_sql(insert.format("dogs"))
        assert connection.scalar(sa.text("SELECT id FROM projects WHERE name = 'dogs'")) == 3


def test_corrections_of_an_older_florist_are_not_withdrawn(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations)
    for later in (migrations / "versions").glob("*.py"):
        if later.name not in ("__init__.py", "initial.py", "lasting_project_ids.py"):
            later.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", migrations)
        with JobStore(url) as store, store.database.begin_write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO projects (storage_id, name, base_sha256, tasks, holdout_share, folder, created) "
                "VALUES ('here', 'birds', 'b', '[]', 0.25, 'folder', 1)"
            )
            connection.exec_driver_sql(
                "INSERT INTO corrections (project_id, image_sha256, label_kind, version, width, height, annotations, "
                "complete, image_name, author, created) VALUES (1, 'a', 'objects', 1, 64, 48, '[]', true, '', '', 1)"
            )
    with JobStore(url) as store, store.database.begin_read() as connection:
        assert connection.scalar(sa.text("SELECT withdrawn FROM corrections")) in (0, False)
