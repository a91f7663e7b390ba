"""Databases that cannot be opened, read-only ones, and those that others have locked."""

import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest

from server.store import JobSpec, StoreError, StoreUnavailableError
from server.store.database import to_file_url
from server.store.jobs.job_store import JobStore
from tests.server.databases import Postgres

SPEC = JobSpec("out", "{}", "a" * 64, "images", "f" * 32, "b" * 64)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://host/name", "SQLite or PostgreSQL, not mysql"),
        ("florist.db", "postgresql://user:password@host/name"),
        ("sqlite://", "SQLite needs a file"),
        ("postgresql://florist:secret@/name?host=/nowhere", "does not answer"),
        ("sqlite:////nowhere/florist.db", "cannot be written"),
    ],
)
def test_a_database_that_cannot_be_used_is_reported(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as refused:
        JobStore(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "100%", "a#b", "ä b"])
def test_a_file_url_leads_to_the_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    file = tmp_path / name / "florist.db"
    for read_only in (False, True):
        with JobStore(to_file_url(file), read_only=read_only) as store:
            assert store.list_jobs() == []
    assert file.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_is_not_a_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "florist.db").write_bytes(b"something else" * 100)
    with pytest.raises(StoreError, match="not a florist database"):
        JobStore(f"sqlite:///{tmp_path / 'florist.db'}")
    assert (tmp_path / "florist.db").read_bytes() == b"something else" * 100


def test_a_read_only_folder_is_reported(tmp_path: Path) -> None:
    """In a child process, since root can write anywhere."""
    read, write = os.pipe()
    tmp_path.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents[:3]]:
        if parent.owner() == Path.home().owner() and "pytest" in parent.name:
            parent.chmod(parent.stat().st_mode | 0o055)
    if (child := os.fork()) == 0:
        message = "it was opened"
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            JobStore(f"sqlite:///{tmp_path / 'florist.db'}")
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, message.encode())
            os._exit(0)
    os.waitpid(child, 0)
    message = os.read(read, 10_000).decode()
    assert "StoreError" in message
    assert "cannot be written" in message
    assert "rights" in message


def test_a_read_only_store_sees_changes_and_makes_none(url: str) -> None:
    with JobStore(url) as store, JobStore(url, read_only=True) as reader:
        job = store.get_or_create_job(SPEC, ["0.png"])
        assert reader.list_jobs() == [job]
        paused = store.pause(job)
        assert reader.list_jobs() == [paused]
        with pytest.raises(StoreError):
            reader.resume(job)
        assert store.list_jobs() == [paused]
        with store.database.begin_write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(StoreError, match="written by another version of florist"):
        JobStore(url, read_only=True)


def test_a_read_only_store_does_not_create_a_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"florist\.db cannot be read"):
        JobStore(f"sqlite:///{tmp_path / 'florist.db'}", read_only=True)
    assert not list(tmp_path.iterdir())


@contextmanager
def lock(url: str) -> Iterator[None]:
    """Locks the jobs against writers, as another process would, and in PostgreSQL also against readers."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.close()
    else:
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            yield
            other.rollback()


def test_waiting_writers_keep_no_reader_waiting_and_give_up(url: str) -> None:
    with JobStore(url, max_wait=0.5) as store, ThreadPoolExecutor(40) as threads:
        job = store.get_or_create_job(SPEC, ["0.png"])
        with lock(url):
            start = time.monotonic()
            writers = [threads.submit(store.pause, job) for _ in range(40)]
            if url.startswith("sqlite"):
                assert [store.get_job(job.id) for _ in range(100)] == [job] * 100
                assert not any(writer.done() for writer in writers)
            for writer in writers:
                with pytest.raises(StoreUnavailableError) as waited:
                    writer.result()
                assert "secret" not in str(waited.value)
            assert time.monotonic() - start < 10  # one after the other they would wait 20 s
        assert store.pause(job).state == "paused"


def test_readers_of_a_locked_table_give_up(postgres: Postgres) -> None:
    url = postgres.create_database()
    with JobStore(url, max_wait=0.2) as store:
        job = store.get_or_create_job(SPEC, ["0.png"])
        with lock(url), pytest.raises(StoreUnavailableError, match="lock timeout"):
            store.get_job(job.id)
        assert store.get_job(job.id) == job


def begin_many(store: JobStore, stack: ExitStack) -> None:
    for _ in range(100):
        stack.enter_context(store.database.begin_read())


def test_a_reader_gives_up_if_all_connections_are_in_use(url: str) -> None:
    with JobStore(url, max_wait=0.2) as store, ExitStack() as others:
        job = store.get_or_create_job(SPEC, ["0.png"])
        with pytest.raises(StoreUnavailableError, match="busy for too long"):
            begin_many(store, others)
        others.close()
        assert store.get_job(job.id) == job


def test_a_check_reports_a_database_that_is_gone(url: str, postgres: Postgres) -> None:
    with JobStore(url, max_wait=0.2) as store:
        store.database.check()
        if url.startswith("sqlite"):
            Path(url.removeprefix("sqlite:///")).unlink()
        else:
            with psycopg.connect(postgres.create_database(), autocommit=True) as other:
                other.execute(f"DROP DATABASE {url.partition('@/')[2].partition('?')[0]} WITH (FORCE)")
        with pytest.raises(StoreError):
            store.database.check()
