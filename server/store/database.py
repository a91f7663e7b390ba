"""A database opened: SQLite in WAL mode, or PostgreSQL; its tables brought up to date; its errors in plain words."""

import sqlite3
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
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

PATIENCE = 30.0  # seconds that SQLite waits for another process's transaction
_MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE = 0x666C6F72  # the advisory lock of those who bring PostgreSQL's tables up to date: one at a time
_GONE = ("08", "57P", "40", "53300", "25006")  # connection lost, shutting down, conflict, too many clients, standby


class StoreError(Exception):
    """The store cannot be used; the message says what to do. What it holds is safe."""


class StoreAway(StoreError):  # noqa: N818
    """The database does not answer now; the same call may be made again, for none does its work twice."""


def file_url(path: Path) -> str:
    """The URL of an SQLite file: a `?` or a `%` of its path is no part of a URL's own grammar."""
    return f"sqlite:///{urllib.parse.quote(str(path))}"


def connect(url: str, *, read_only: bool = False) -> sa.Engine:
    """A database by SQLAlchemy's URL (`sqlite:///florist.db`, `postgresql://user@host/name`), its tables up to date; or
    as it is, to be read alone. Raises StoreError."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise StoreError("a database is named postgresql://user:password@host/name or sqlite:///file") from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if read_only and parsed.database:  # SQLite would make a missing one
            name = f"file:{urllib.parse.quote(parsed.database)}"
            parsed = parsed.set(database=name, query={"mode": "ro", "uri": "true"})
        engine = sa.create_engine(parsed, connect_args={"timeout": PATIENCE})
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif kind == "postgresql":
        # A network that swallows packets is noticed within half a minute, not after TCP's two hours.
        arguments = {"connect_timeout": 10, "keepalives_idle": 15, "keepalives_interval": 5, "tcp_user_timeout": 30_000}
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"), connect_args=arguments, pool_pre_ping=True, max_overflow=20,
            execution_options={"postgresql_readonly": True} if read_only else {},
        )  # fmt: skip
    else:
        raise StoreError(f"jobs are kept in SQLite or PostgreSQL, not in {kind}")
    try:
        with plain_errors(engine):
            if read_only:
                _check(engine)
            else:
                _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def writing(engine: sa.Engine) -> sa.Engine:
    """The same database for transactions that write: SQLite takes its lock at their start, for a reader that turns
    writer midway is refused where another wrote meanwhile."""
    return engine.execution_options(writes=True)


def _set_up_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    # With WAL, NORMAL survives kill -9 whole; a power cut may take the last moments, which are then labelled again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _check(engine: sa.Engine) -> None:
    """Raises StoreError for tables that this version does not know."""
    wanted = ScriptDirectory.from_config(_migrations()).get_current_head()
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() != wanted:
            raise StoreError(f"{place(engine)} was written by another version of florist: read it by the server's own")


def _upgrade(engine: sa.Engine) -> None:
    """Runs the migrations that the database has not seen, all or none."""
    config = _migrations()
    with writing(engine).connect() as connection, _tables_free(connection), connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_UPGRADE)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(f"{place(engine)} was written by a newer florist; update this one ({error})") from error


@contextmanager
def _tables_free(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by writing it anew and dropping the old one, whose end must not be that of all rows that
    refer to it (section 7 of its ALTER TABLE page). Outside of transactions only."""
    if connection.dialect.name != "sqlite":
        yield
        return
    own: Any = connection.connection.driver_connection
    own.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        own.execute("PRAGMA foreign_keys=ON")


def place(engine: sa.Engine) -> str:
    """Where the database is, for people, without its password."""
    if engine.dialect.name != "sqlite":
        return repr(engine.url)
    name = engine.url.database or "memory"
    return urllib.parse.unquote(name.removeprefix("file:")) if name.startswith("file:") else name


@contextmanager
def plain_errors(engine: sa.Engine) -> Iterator[None]:
    """Turns what the drivers raise into StoreError and StoreAway; broken constraints pass as they are."""
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeout as error:
        raise StoreAway(f"{place(engine)} has been busy for too long") from error
    except DBAPIError as error:
        raise _plain(engine, error) from error
    except SQLAlchemyError as error:
        raise StoreError(f"{place(engine)}: {error}") from error


def _plain(engine: sa.Engine, error: DBAPIError) -> StoreError:
    where, said = place(engine), str(error.orig).strip().split("\n")[0]
    if engine.dialect.name == "sqlite":
        code = getattr(error.orig, "sqlite_errorname", "")
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return StoreAway(f"another process has been writing to {where} for {PATIENCE:.0f} s")
        if code.startswith("SQLITE_FULL"):
            return StoreError(_full(where))
        if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            what = "read" if engine.url.query.get("mode") == "ro" else "written"
            return StoreError(f"{where} cannot be {what} ({said}): see to the rights of it and of its folder")
        if code.startswith("SQLITE_IOERR"):
            return StoreError(f"the disk of {where} fails or is full ({said}); what was labelled is kept")
        if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            return StoreError(f"{where} is no database of florist's, or is damaged ({said})")
        return StoreError(f"{where}: {said}")
    state = getattr(error.orig, "sqlstate", None)
    if state == "53100":
        return StoreError(_full(where))
    if error.connection_invalidated or state is None or state.startswith(_GONE):
        return StoreAway(f"the database {where} does not answer: {said}")
    return StoreError(f"the database {where}: {said}")


def _full(where: str) -> str:
    return f"the disk of {where} is full; what was labelled is kept: make room and run the same command again"
