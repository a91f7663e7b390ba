"""Answers that are large, exports that are held open, and settings at their extremes: the server stays small."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from labels.label_kind import LabelKind
from labels.labeled_image import TracedAnnotation
from prompts.annotations import Text
from server.jobs import export_folders
from server.store import CompletedImage, ImageAnnotations, JobSpec
from server.store.jobs.job_store import JobStore
from server.store.projects.records import CorrectionContent
from tests.field.idle_server import create_project, list_all, serve
from tests.server.helpers import wait_until

OF_SERVER = json.dumps({"by": "server"})


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server with one project, for requests that are refused."""
    with serve(tmp_path_factory.mktemp("idle")) as (client, _):
        create_project(client, "first")
        yield client


@pytest.mark.situation("DB8", "1,000 corrections with large captions in one page")
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


RECIPE = {"name": "mine", "steps": [{"id": "a", "task": "<OD>"}]}


def add_job(folder: Path, images: int, traces: int = 20, recipe: str = json.dumps(RECIPE)) -> int:
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


@pytest.mark.situation("DB9", "results of a job whose answers are large, and a list of jobs with large recipes")
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
        assert client.get(f"/v1/jobs/{number}").json()["recipe"] == RECIPE
        assert len(client.get("/v1/jobs/2/events").content) < 20_000


@pytest.mark.situation("DB10", "clients that hold their exports open: few at a time, and nothing stays on disk")
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


@pytest.mark.situation(
    "DB11", "settings of a fine-tune run at their extremes: 422, no run, and the limit in the answer"
)
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
