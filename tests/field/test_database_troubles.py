"""A database that is locked, full or gone, and answers that are large: the server stays small and answers."""

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from labels.label_kind import LabelKind
from labels.labeled_image import TracedAnnotation
from prompts.annotations import Text
from server.app import create_app
from server.engine.engine import Engine
from server.jobs import export_folders
from server.settings import Settings
from server.store import CompletedImage, ImageAnnotations, JobSpec
from server.store.jobs.job_store import JobStore
from server.store.pages import MAX_PAGE_BYTES
from server.store.projects.records import CorrectionContent
from tests.server.databases import Postgres, have_postgres
from tests.server.helpers import TIMEOUT, StuckEngine, serve_app, wait_until
from tests.server.projects.scenes import draw_scenes

LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""
OF_SERVER = json.dumps({"by": "server"})


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not have_postgres():
        pytest.skip("PostgreSQL is not installed: there is no initdb or postgres")
    server = Postgres()
    yield server
    server.close()


class IdleEngine(StuckEngine):
    """An engine for servers that are asked about everything but the model."""

    def __init__(self) -> None:
        super().__init__()
        self.checkpoint.sha256 = "b" * 64

    def list_adapters(self) -> list[Any]:
        return []


def create_server(folder: Path, **settings: Any) -> FastAPI:
    chosen = Settings(jobs_folder=folder / "jobs", projects_folder=folder / "projects", **settings)
    return create_app(chosen, cast(Engine, IdleEngine()))


@contextmanager
def serve(folder: Path, **settings: Any) -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = create_server(folder, **settings)
    with serve_app(app) as url, httpx.Client(base_url=url, timeout=TIMEOUT) as client:
        yield client, app


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with one project, for requests that are refused."""
    with serve(tmp_path_factory.mktemp("idle")) as (client, _):
        create_project(client, "first")
        yield client


@contextmanager
def lock_in_another_process(database: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    yield
    process.communicate(timeout=TIMEOUT)


def create_project(client: httpx.Client, name: str) -> str:
    response = client.post("/v1/projects", json={"name": name})
    assert response.status_code == 201, response.text
    return str(response.headers["location"])


def check_retry(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["type"]) == (503, "urn:florist:problem:database-unavailable")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.situation("E1", "60 writers wait for a database that another process has locked: readers answer")
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


@pytest.mark.situation("E2", "a table of PostgreSQL that another session has locked: 503 in time, then 200")
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


@pytest.mark.situation("E3", "PostgreSQL goes away and comes back: /readyz says so, /healthz does not")
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


@pytest.mark.situation("E4", "PostgreSQL hangs: /readyz says so within seconds")
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


@pytest.mark.situation("E5", "the file of the database is deleted or is no database any more")
def test_readiness_notices_a_broken_file(tmp_path: Path) -> None:
    with serve(tmp_path) as (client, _):
        assert client.get("/readyz").status_code == 200
        (tmp_path / "jobs/florist.db").rename(tmp_path / "moved")
        check_retry(client.get("/readyz"))
        (tmp_path / "moved").rename(tmp_path / "jobs/florist.db")
        assert client.get("/readyz").status_code == 200


@pytest.mark.situation("E6", "the disk of the database is full: 507, and all that was acknowledged is there")
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


def list_all(client: httpx.Client, path: str, name: str, limit: int = 1000) -> list[dict[str, Any]]:
    """Returns the entries of all pages. Each page must be small."""
    entries: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        response = client.get(path, params={"limit": limit, "after": after})
        assert response.status_code == 200, response.text
        assert len(response.content) < MAX_PAGE_BYTES + (1 << 20)
        entries += response.json()[name]
        after = response.json()["next"]
    return entries


@pytest.mark.situation("E8", "1,000 corrections with large captions in one page")
def test_pages_of_large_corrections_are_limited_in_bytes(tmp_path: Path) -> None:
    with serve(tmp_path) as (client, app):
        number = int(create_project(client, "first").rpartition("/")[2])
        store = app.state.lifecycle.require_projects().store
        captions = tuple(Text(label=f"{n} " + "é" * 3990) for n in range(25))
        store.corrections.add_corrections(
            store.get_project(number),
            (CorrectionContent(f"{n:064}", LabelKind.CAPTIONS, 64, 48, captions) for n in range(100)),
        )
        found = list_all(client, f"/v1/projects/{number}/corrections", "corrections")
        assert [each["image_sha256"] for each in found] == [f"{n:064}" for n in range(100)]
        assert all(len(each["annotations"]) == 25 for each in found)
        assert found[0] == client.get(f"/v1/projects/{number}/corrections?limit=1").json()["corrections"][0]


def add_job(folder: Path, images: int, traces: int = 20, recipe: str = '{"name": "mine"}') -> int:
    """Adds a finished job with large answers to the database of a server, and returns its ID."""
    (folder / "jobs").mkdir(exist_ok=True)
    with JobStore(f"sqlite:///{folder / 'jobs/florist.db'}") as store:
        output = f"job-{len(store.list_jobs())}"
        spec = JobSpec(output, recipe, f"{output:0>64}", "images", "f" * 32, "b" * 64, OF_SERVER)
        job = store.start(store.get_or_create_job(spec, (f"{n}.png" for n in range(images))))
        leases, large = store.open_leases(job, "me", 60), Text(label="a word " * 500)
        leases.acquire(images)
        for n in range(images):
            annotations = [TracedAnnotation(large, "s", "p", f"{n} " + "raw " * 1000) for _ in range(traces)]
            leases.complete([CompletedImage(n, ImageAnnotations(f"{n:064}", 64, 48, tuple(annotations)))])
        assert store.finish(job).state == "done"
        return job.id


@pytest.mark.situation("E9", "results of a job whose answers are large, and a list of jobs with large recipes")
def test_pages_of_jobs_are_limited_in_bytes(tmp_path: Path) -> None:
    number = add_job(tmp_path, 80)
    for _ in range(12):
        add_job(tmp_path, 1, 1, json.dumps({"name": "large", "ontology": {"a": ["b" * 1_000_000]}}))
    with serve(tmp_path) as (client, _):
        found: list[Any] = client.get(f"/v1/jobs/{number}/results?limit=1").json()["images"]
        found += list_all(client, f"/v1/jobs/{number}/results", "images")
        assert [image["position"] for image in found] == list(range(80))
        jobs = client.get("/v1/jobs")
        assert len(jobs.content) < 20_000
        rows = list_all(client, "/v1/jobs", "jobs")
        assert [row["recipe_name"] for row in rows] == ["mine", *["large"] * 12]
        assert "recipe" not in rows[0]
        assert client.get(f"/v1/jobs/{number}").json()["recipe"] == {"name": "mine"}
        assert len(client.get("/v1/jobs/2/events").content) < 20_000


@pytest.mark.situation("E10", "clients that hold their exports open: few at a time, and nothing stays on disk")
def test_exports_that_clients_hold_open_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_folders, "MAX_EXPORTS", 2)
    path = f"/v1/jobs/{add_job(tmp_path, 120)}/export?format=jsonl"  # 18 MB, more than the buffers of a socket
    exports = tmp_path / "jobs/exports"
    (exports / "left-over").mkdir(parents=True)
    with serve(tmp_path) as (client, _):
        with ExitStack() as slow:
            for _ in range(2):
                assert slow.enter_context(client.stream("GET", path)).status_code == 200
            assert len(list(exports.iterdir())) == 2
            refused = client.get(path)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:florist:problem:busy")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get(path.replace("export?format=jsonl", "failures")).status_code == 200
        wait_until(lambda: not list(exports.iterdir()))
        assert len(client.get(path).content) > 10_000_000
        monkeypatch.setattr(export_folders, "MIN_FREE_BYTES", 1 << 60)
        full = client.get(path)
        assert (full.status_code, full.json()["type"]) == (507, "urn:florist:problem:insufficient-storage")
        assert str(tmp_path) not in full.text
        assert not list(exports.iterdir())


@pytest.mark.situation("E11", "settings of a fine-tune run at their extremes: 422, no run, and the limit in the answer")
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", "-1"), ("seed", "1e400"), ("seed", "9" * 500), ("lora_alpha", "1e300"), ("max_grad_norm", "1e-320"),
        ("max_grad_norm", "1e400"), ("steps", "1000000000000"), ("batch_size", "1000000000"), ("lora_rank", "1000000"),
        ("learning_rate", "1e308"), ("learning_rate", "-1e400"), ("learning_rate", '"NaN"'), ("learning_rate", '"inf"'),
        ("replay_share", "1.5"), ("replay_dataset", '"' + "a" * 10_000 + '"'), ("tasks", f"[{'0,' * 200}0]"),
        ("drop_path", "1"), ("views_per_image", "1000000000"), ("metric", '""'),
    ],
)  # fmt: skip
def test_settings_of_a_run_are_limited(idle: httpx.Client, setting: str, value: str) -> None:
    body = f'{{"{setting}": {value}}}'
    response = idle.post("/v1/projects/1/runs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text
    assert setting in response.text or response.status_code == 400
    assert "Input" not in response.text
    assert idle.get("/v1/projects/1/runs").json() == {"runs": [], "next": None}
