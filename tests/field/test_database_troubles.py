"""A database that is locked, full or gone: the server answers, and nothing that it acknowledged is lost."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from tests.field.idle_server import create_project, list_all, serve
from tests.server.databases import Postgres, have_postgres
from tests.server.helpers import TIMEOUT, wait_until
from tests.server.projects.scenes import draw_scenes

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not have_postgres():
        pytest.skip("PostgreSQL is not installed: there is no initdb or postgres")
    server = Postgres()
    yield server
    server.close()


@contextmanager
def lock_in_another_process(database: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield
    process.communicate(timeout=TIMEOUT)


def check_retry(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["type"]) == (503, "urn:florist:problem:database-unavailable")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.situation("DB1", "60 writers wait for a database that another process has locked: readers answer")
def test_readers_answer_while_writers_wait_for_a_lock(tmp_path: Path) -> None:
    with serve(tmp_path, database_timeout=1.5) as (client, _), ThreadPoolExecutor(60) as threads:
        project = create_project(client, "first")
        with lock_in_another_process(tmp_path / "jobs/florist.db"):
            start = time.monotonic()
            writers = [threads.submit(client.post, "/v1/projects", json={"name": f"p{n}"}) for n in range(60)]
            wait_until(lambda: sum(writer.running() or writer.done() for writer in writers) == 60)
            for path in (project, "/v1/projects", f"{project}/corrections", "/v1/jobs", "/healthz", "/readyz"):
                assert client.get(path).status_code == 200
            assert not all(writer.done() for writer in writers)
            for writer in writers:
                check_retry(writer.result())
            assert time.monotonic() - start < 30  # 60 times 1.5 s, if each one waited for the others
        create_project(client, "p1")


@pytest.mark.situation("DB2", "a table of PostgreSQL that another session has locked: 503 in time, then 200")
def test_a_locked_table_is_answered_in_time(tmp_path: Path, postgres: Postgres) -> None:
    url = postgres.create_database()
    with (
        serve(tmp_path, database_url=url, database_timeout=0.5) as (client, _),
        ThreadPoolExecutor(40) as threads,
    ):
        project = create_project(client, "first")
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE corrections IN ACCESS EXCLUSIVE MODE")
            for response in threads.map(client.get, [project] * 60):
                check_retry(response)
            assert client.get("/v1/jobs").status_code == 200
            assert client.get("/readyz").status_code == 200
        assert client.get(project).status_code == 200


@pytest.mark.situation("DB3", "PostgreSQL goes away and comes back: /readyz says so, /healthz does not")
def test_readiness_follows_the_database(tmp_path: Path, postgres: Postgres) -> None:
    with serve(tmp_path, database_url=postgres.create_database(), database_timeout=1) as (client, _):
        project = create_project(client, "first")
        assert client.get("/readyz").status_code == 200
        postgres.stop()
        try:
            check_retry(client.get("/readyz"))
            check_retry(client.get(project))
            check_retry(client.post("/v1/projects", json={"name": "second"}))
            assert client.get("/healthz").status_code == 200
        finally:
            postgres.start()
        assert client.get("/readyz").status_code == 200
        create_project(client, "second")


@pytest.mark.situation("DB4", "PostgreSQL hangs: /readyz says so within seconds")
def test_readiness_notices_a_database_that_hangs(tmp_path: Path, postgres: Postgres) -> None:
    with serve(tmp_path, database_url=postgres.create_database(), database_timeout=1) as (client, _):
        assert client.get("/readyz").status_code == 200
        postgres.signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            check_retry(client.get("/readyz"))
            assert time.monotonic() - start < 30
            assert client.get("/healthz").status_code == 200
        finally:
            postgres.signal(signal.SIGCONT)
        wait_until(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.situation("DB5", "the file of the database is deleted or is no database any more")
def test_readiness_notices_a_broken_file(tmp_path: Path) -> None:
    with serve(tmp_path) as (client, _):
        assert client.get("/readyz").status_code == 200
        (tmp_path / "jobs/florist.db").rename(tmp_path / "moved")
        check_retry(client.get("/readyz"))
        (tmp_path / "moved").rename(tmp_path / "jobs/florist.db")
        assert client.get("/readyz").status_code == 200


@pytest.mark.situation("DB6", "the disk of the database is full: 507, and all that was acknowledged is there")
def test_a_full_disk_loses_no_correction(tmp_path: Path) -> None:
    with serve(tmp_path) as (client, app):
        project = create_project(client, "first")
        (scene,) = draw_scenes(1)
        body = {**scene.body, "annotations": [{"kind": "text", "label": "a" * 4000}] * 20}
        writer = app.state.lifecycle.require_jobs().store.database.writer

        def limit(connection: sqlite3.Connection, *_: Any) -> None:
            connection.execute("PRAGMA max_page_count = 150")

        sa.event.listen(writer, "checkout", limit)
        statuses, acknowledged = [], []
        for _ in range(20):
            response = client.post(f"{project}/corrections", json=body)
            statuses.append(response.status_code)
            if response.status_code == 201:
                acknowledged.append(response.json()["id"])
        assert set(statuses) == {201, 507}
        assert "florist.db" not in response.text
        sa.event.remove(writer, "checkout", limit)
        with sqlite3.connect(tmp_path / "jobs/florist.db") as database:
            database.execute("PRAGMA max_page_count = 1000000")
        stored = client.get(f"{project}/corrections").json()["corrections"]
        assert [each["id"] for each in stored] == acknowledged


@pytest.mark.slow
@pytest.mark.situation(
    "E7", "PostgreSQL is stopped ten times while four clients correct: each acknowledged one is there"
)
def test_no_correction_is_lost_when_the_database_stops(tmp_path: Path) -> None:
    if not have_postgres():
        pytest.skip("PostgreSQL is not installed")
    own, stop, acknowledged = Postgres(), threading.Event(), []
    try:
        with serve(tmp_path, database_url=own.create_database(), database_timeout=2) as (client, _):
            project = create_project(client, "first")

            def correct(seed: int) -> None:
                for scene in draw_scenes(10_000, seed):
                    if stop.is_set():
                        return
                    response = client.post(f"{project}/corrections", json=scene.body)
                    if response.status_code == 201:
                        acknowledged.append(response.json()["id"])
                    else:
                        check_retry(response)

            with ThreadPoolExecutor(4) as threads:
                clients = [threads.submit(correct, 10_000 * n) for n in range(4)]
                for _ in range(10):
                    before = len(acknowledged)
                    wait_until(lambda before=before: len(acknowledged) > before + 5)
                    own.stop()
                    own.start()
                stop.set()
                for each in clients:
                    each.result()
            stored = list_all(client, f"{project}/corrections", "corrections")
            ids = [each["id"] for each in stored]
            assert set(acknowledged) <= set(ids)
            assert len({(each["image_sha256"], each["version"]) for each in stored}) == len(stored)
    finally:
        own.close()
