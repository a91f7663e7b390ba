"""The version of a database's tables, and their upgrade by Alembic migrations."""

import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from server.store.errors import StoreError

MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 0x666C6F72  # key of the PostgreSQL advisory lock that lets one process at a time upgrade the tables


def check_version(engine: sa.Engine) -> None:
    """Raises StoreError if another version of florist wrote the tables."""
    expected = ScriptDirectory.from_config(_create_config()).get_current_head()
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() != expected:
            raise StoreError(
                f"{describe_location(engine)} was written by another version of florist: use that version to read it"
            )


def upgrade(engine: sa.Engine) -> None:
    """Runs all migrations that the database has not seen, in one transaction. Raises StoreError if the tables are newer
    than this version of florist. `engine` begins transactions that write."""
    config = _create_config()
    with engine.connect() as connection, _without_foreign_keys(connection), connection.begin():
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another process may upgrade large tables
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"{describe_location(engine)} was written by a newer florist; update this one ({error})"
            ) from error


def describe_location(engine: sa.Engine) -> str:
    """Returns where the database is, without its password, for messages."""
    if engine.dialect.name != "sqlite":
        return repr(engine.url)
    name = engine.url.database or "memory"
    return urllib.parse.unquote(name.removeprefix("file:")) if name.startswith("file:") else name


def _create_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


@contextmanager
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    """Disables SQLite's foreign keys within the block. Call it outside of transactions.

    Alembic alters a table of SQLite by copying it and dropping the old one. With foreign keys enabled, that would
    delete all rows that refer to it (https://sqlite.org/lang_altertable.html, section 7).
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")
