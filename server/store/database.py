"""Connections to the database: SQLite in WAL mode, or PostgreSQL. Driver errors become StoreError."""

import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from server.store import schema
from server.store.errors import StoreError, StoreUnavailableError

MAX_WAIT = 30.0  # seconds; see Database
_READERS, _WRITERS = 15, 10  # connections at a time; SQLite has one writer
_MAX_IDLE = 5  # connections that stay open
# SQLSTATE prefixes: connection lost, shutting down, transaction conflict, too many clients, standby, lock timeout.
_UNAVAILABLE_STATES = ("08", "57P", "40", "53300", "25006", "55P03")
_DISK_FULL_STATE = "53100"


class Database:
    """An open database whose tables are up to date. Safe to use from any thread.

    Methods raise StoreError, and StoreUnavailableError if the same call can be repeated. Readers and writers have
    connections of their own: writers that wait for a lock of another process keep no reader waiting.

    Attributes:
        engine: Has the connections of readers.
        writer: Has the connections of writers.
        max_wait: How long a transaction waits for a connection and for locks, in seconds.
    """

    def __init__(self, url: str, *, read_only: bool = False, max_wait: float = MAX_WAIT) -> None:
        """Opens the database of an SQLAlchemy URL (`sqlite:///florist.db`, `postgresql://user@host/name`).

        Creates or upgrades its tables. With `read_only`, the tables stay as they are and writes fail. A transaction
        waits up to `max_wait` seconds for a connection and for locks, then it raises StoreUnavailableError.
        """
        self._url, self.max_wait = url, max_wait
        self.engine = _create_engine(url, max_wait, read_only=read_only, writes=False)
        self.writer = _create_engine(url, max_wait, read_only=read_only, writes=True)
        try:
            with translate_errors(self.engine):
                if read_only:
                    schema.check_version(self.engine)
                else:
                    schema.upgrade(self.writer)
        except BaseException:
            self.close()
            raise
        is_postgresql = self.engine.dialect.name == "postgresql"
        self.insert: Callable[..., Any] = postgresql.insert if is_postgresql else sqlite.insert
        # The clock of the database, which all machines share.
        self._clock = sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double) if is_postgresql else None

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()
        self.writer.dispose()

    @contextmanager
    def begin_read(self) -> Iterator[sa.Connection]:
        """Begins a transaction that only reads."""
        with translate_errors(self.engine), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def begin_write(self) -> Iterator[sa.Connection]:
        """Begins a transaction that writes. It is committed at the end of the block, or rolled back on an error."""
        deadline = time.monotonic() + self.max_wait
        with translate_errors(self.engine), self.writer.connect() as connection:
            if connection.dialect.name == "sqlite":  # what is left of the time after the wait for the connection
                _set_lock_timeout(connection, deadline - time.monotonic())
            with connection.begin():
                yield connection

    def check(self) -> None:
        """Reads from the database over a new connection: the others may all be in use. Raises StoreError."""
        engine = _create_engine(self._url, self.max_wait, read_only=True, writes=False)
        try:
            with translate_errors(engine), engine.connect() as connection:
                connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        finally:
            engine.dispose()

    def check_writable(self) -> None:
        """Raises StoreError if the database takes no writes now: before work that would be in vain."""
        with self.begin_write():
            pass

    def count_bytes(self, text: Any) -> sa.ColumnElement[int]:
        """Returns the size of a text in bytes."""
        if self.engine.dialect.name == "postgresql":
            return sa.func.octet_length(text)
        return sa.func.length(sa.cast(text, sa.LargeBinary))

    def now(self) -> sa.ColumnElement[float]:
        """Returns the Unix time in seconds, by the clock that all workers share."""
        return sa.literal(time.time()) if self._clock is None else self._clock


def to_file_url(path: Path) -> str:
    """Returns the URL of an SQLite file. Characters such as `?` and `%` in its path are escaped."""
    return f"sqlite:///{urllib.parse.quote(str(path))}"


@contextmanager
def translate_errors(engine: sa.Engine) -> Iterator[None]:
    """Turns driver errors into StoreError and StoreUnavailableError. IntegrityError passes through."""
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeout as error:
        raise StoreUnavailableError(
            f"all connections to {schema.describe_location(engine)} have been busy for too long"
        ) from error
    except DBAPIError as error:
        raise _translate(engine, error) from error
    except SQLAlchemyError as error:
        raise StoreError(f"{schema.describe_location(engine)}: {error}") from error


def _create_engine(url: str, max_wait: float, *, read_only: bool, writes: bool) -> sa.Engine:
    """Returns the engine for transactions that write, or for those that only read.

    SQLite locks the database at the start of transactions that write. Otherwise, a transaction that first reads and
    then writes would fail if another process wrote in between.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise StoreError("a database URL is postgresql://user:password@host/name or sqlite:///file") from error
    kind = parsed.get_backend_name()
    if kind == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError("SQLite needs a file: sqlite:///florist.db")
        if read_only:  # SQLite would create a missing file
            name = f"file:{urllib.parse.quote(parsed.database)}"
            parsed = parsed.set(database=name, query={"mode": "ro", "uri": "true"})
        engine = sa.create_engine(
            parsed, connect_args={"timeout": max_wait}, pool_timeout=max_wait, pool_size=1 if writes else _MAX_IDLE,
            max_overflow=0 if writes else _READERS - _MAX_IDLE,
        )  # fmt: skip
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif kind == "postgresql":
        seconds = max(2, round(max_wait))
        # A network that drops packets is noticed after that time too, not after TCP's two hours.
        arguments = {
            "connect_timeout": seconds, "keepalives_idle": seconds, "keepalives_interval": 5,
            "tcp_user_timeout": 1000 * seconds,
        }  # fmt: skip
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"), connect_args=arguments, pool_pre_ping=True,
            pool_timeout=max_wait, pool_size=_MAX_IDLE, max_overflow=(_WRITERS if writes else _READERS) - _MAX_IDLE,
            execution_options={"postgresql_readonly": True} if read_only else {},
        )  # fmt: skip
        event.listen(engine, "connect", partial(_set_up_postgresql, max_wait))
    else:
        raise StoreError(f"the database must be SQLite or PostgreSQL, not {kind}")
    return engine.execution_options(writes=True) if writes else engine


def _set_lock_timeout(connection: sa.Connection, seconds: float) -> None:
    driver: Any = connection.connection.driver_connection  # outside of the transaction
    driver.execute(f"PRAGMA busy_timeout={max(0, round(1e3 * seconds))}")


def _set_up_sqlite(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None  # _begin_sqlite begins the transactions
    # In WAL mode, synchronous=NORMAL survives kill -9. A power cut may lose the last transactions; those images are
    # then labeled again.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _set_up_postgresql(max_wait: float, connection: Any, _: Any) -> None:
    connection.execute(f"SET lock_timeout = {max(1, round(1e3 * max_wait))}")
    connection.commit()


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _translate(engine: sa.Engine, error: DBAPIError) -> StoreError:
    location, message = schema.describe_location(engine), str(error.orig).strip().split("\n")[0]
    if engine.dialect.name == "sqlite":
        return _translate_sqlite(engine, error, location, message)
    state = getattr(error.orig, "sqlstate", None)
    if state == _DISK_FULL_STATE:
        return StoreError(_describe_full_disk(location))
    if error.connection_invalidated or state is None or state.startswith(_UNAVAILABLE_STATES):
        return StoreUnavailableError(f"the database {location} does not answer: {message}")
    return StoreError(f"the database {location}: {message}")


def _translate_sqlite(engine: sa.Engine, error: DBAPIError, location: str, message: str) -> StoreError:
    code = getattr(error.orig, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreUnavailableError(f"another process is writing to {location}, and has not ended in time")
    if code.startswith("SQLITE_FULL"):
        return StoreError(_describe_full_disk(location))
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        verb = "read" if engine.url.query.get("mode") == "ro" else "written"
        return StoreError(f"{location} cannot be {verb} ({message}): check the access rights of it and of its folder")
    if code.startswith("SQLITE_IOERR"):
        return StoreError(f"the disk of {location} fails or is full ({message}); all finished work is kept")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreError(f"{location} is not a florist database, or is damaged ({message})")
    return StoreError(f"{location}: {message}")


def _describe_full_disk(location: str) -> str:
    return f"the disk of {location} is full; all finished work is kept: free some space and run the same command again"
