"""Jobs on a Ray cluster, by the command line and with PostgreSQL. The first tests need no Ray."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seedling.scenes.drawing import draw_scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs import job_start
from server.jobs.cluster import WorkerPool, run_on_cluster
from server.jobs.cluster_worker import ClusterJob, ClusterWorker, EngineSetup
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.sources import open_source
from server.store import Job, JobProgress, JobState
from server.store.jobs.job_store import JobStore
from tests.server.databases import Postgres
from tests.server.helpers import ROOT, wait_until

SCENES = 60
TIMEOUT = 400.0  # seconds; a cluster has many processes for a small machine
SETUP = EngineSetup(EngineConfig("seedling", "cpu", "float32"))
RECIPE = """
name: cascade
review_below: 0.5
steps:
  - {id: things, task: <OD>, filter: {nms: 0.7, class_agnostic_nms: 0.9, max_count: 2}}
  - {id: names, task: <REGION_TO_CATEGORY>, for_each: things}
"""


# Workers in this process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for seed in range(3):
        draw_scene(7000 + seed).image.save(folder / f"{seed}.png")
    return folder


def start_new_job(store: JobStore, engine: Engine, folder: Path) -> Job:
    recipe = validate_recipe({"name": "things", "steps": [{"id": "objects", "task": "<OD>"}]})
    with open_source(str(folder)) as source:
        return job_start.start_job(store, engine, recipe, source, str(folder), "out")


def run_turn(cluster_job: ClusterJob) -> str:
    """Returns why a worker cannot work; empty if it can."""
    [problem] = ClusterWorker(cluster_job, threads=1)({"turn": [0]})["problem"]
    return problem


def test_a_worker_works_until_all_images_have_ended(url: str, engine: Engine, folder: Path, tmp_path: Path) -> None:
    (folder / "page.jpg").write_bytes(b"<html>")
    with JobStore(url) as store:
        job = start_new_job(store, engine, folder)
        cluster_job = ClusterJob(url, job.id, str(folder), tmp_path / "out", SETUP)
        actor = ClusterWorker(cluster_job, threads=1)
        assert [actor({"turn": [n]})["problem"] for n in range(2)] == [[""], [""]]
        assert store.get_job(job.id).state is JobState.DONE
        assert store.get_progress(job) == JobProgress(done=3, failed=1, failures_by_kind={"unsupported": 1})
        assert store.count_workers(job) == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no folder", "the images cannot be read on HOST: there is no"),
        ("other images", "few does not contain the same images on HOST"),
        ("no model", "the model cannot be loaded on HOST: "),
        ("no adapter", "the model cannot be loaded on HOST: "),
        ("other florist", "and the command is 0.0.1: install the same version on all"),
    ],
)
def test_a_worker_reports_what_is_wrong_on_its_node(
    url: str, engine: Engine, folder: Path, tmp_path: Path, fault: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "HOST")
    with JobStore(url) as store:
        job = start_new_job(store, engine, folder)
        cluster_job = ClusterJob(url, job.id, str(folder), tmp_path / "out", SETUP)
        if fault == "no folder":
            cluster_job = replace(cluster_job, source=str(tmp_path / "nowhere"))
        elif fault == "other images":
            (folder / "1.png").unlink()
        elif fault == "no model":
            cluster_job = replace(
                cluster_job, engine=replace(SETUP, config=replace(SETUP.config, model=str(tmp_path / "nowhere")))
            )
        elif fault == "no adapter":
            cluster_job = replace(cluster_job, engine=replace(SETUP, adapters=(("project", tmp_path / "nowhere"),)))
        else:
            cluster_job = replace(cluster_job, version="0.0.1")
        assert message in run_turn(cluster_job)
        assert store.get_progress(job).waiting == 3


def test_a_missing_image_may_exist_on_another_node(
    url: str, engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "HOST")
    with JobStore(url) as store:
        job = start_new_job(store, engine, folder)
        actor = ClusterWorker(ClusterJob(url, job.id, str(folder), tmp_path / "out", SETUP), threads=1)
        (folder / "1.png").unlink()
        assert actor({"turn": [0]})["problem"] == [""]
        [failure] = store.iter_failures(job)
    assert (failure.name, failure.kind, failure.attempts) == ("1.png", "unreachable", 3)
    assert failure.reason == "there is no such file (on HOST)"


def test_a_pool_without_a_maximum_fits_the_cluster() -> None:
    assert WorkerPool().fit({"CPU": 16}, gpu=False).max_actors == 16
    assert WorkerPool(cpus=4).fit({"CPU": 18}, gpu=False).max_actors == 4
    assert WorkerPool(cpus=4).fit({"CPU": 18, "GPU": 2}, gpu=True).max_actors == 2
    assert WorkerPool(3).fit({"CPU": 1}, gpu=False).max_actors == 3
    assert WorkerPool(1, 50).fit({"CPU": 1}, gpu=True).max_actors == 50  # Ray's autoscaler may add machines


def test_a_job_that_has_ended_needs_no_cluster(
    url: str, engine: Engine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with JobStore(url) as store:
        job = start_new_job(store, engine, folder)
        cluster_job = ClusterJob(url, job.id, str(folder), tmp_path / "out", SETUP)
        assert run_turn(cluster_job) == ""
        assert (
            run_on_cluster(store, store.get_job(job.id), cluster_job, WorkerPool(), lambda *_: None).state
            is JobState.DONE
        )


# Ray clusters


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, one of them twice, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(SCENES):
        draw_scene(3000 + seed).image.save(folder / f"{seed:02}.png")
    (folder / "07 again.png").write_bytes((folder / "07.png").read_bytes())
    (folder / "page.jpg").write_bytes(b"<html>")
    return folder


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "cascade.yaml"
    path.write_text(RECIPE)
    return path


class LabelCommand(subprocess.Popen[bytes]):
    log: Path


def start_labeling(images: Path, recipe: Path, out: Path, *options: str, **environment: str) -> LabelCommand:
    """Starts `florist label`."""
    command = [
        sys.executable,
        "-m",
        "server.cli.main",
        "label",
        str(images),
        "--recipe",
        str(recipe),
        "--out",
        str(out),
    ]
    command += ["--format", "coco", "--format", "jsonl", "--device", "cpu", *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLORIST_", "RAY_"))}
    log = out.with_suffix(".log")
    with log.open("ab") as file:
        started = LabelCommand(
            command, stdout=file, stderr=file, cwd=ROOT, env=clean | {"OMP_NUM_THREADS": "1"} | environment
        )
    started.log = log
    return started


def read_dataset(out: Path) -> dict[str, bytes]:
    paths = [out / "labels.jsonl", *(out / "coco").rglob("*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.is_file()}


@contextmanager
def start_cluster(*cpus: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """Starts a cluster with a head that does no work, and nodes with these numbers of cores."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise other processes of this machine have priority
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield ray_cluster, [ray_cluster.add_node(num_cpus=count) for count in cpus]
    finally:
        ray_cluster.shutdown()


@pytest.mark.slow
def test_a_killed_node_does_not_change_the_results(
    images: Path, recipe: Path, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = start_labeling(images, recipe, tmp_path / "undisturbed")
    assert undisturbed.wait(TIMEOUT) == 1, undisturbed.log.read_text()
    url, out = postgres.create_database(), tmp_path / "out"
    with start_cluster(1, 1, monkeypatch=monkeypatch) as (ray_cluster, nodes), JobStore(url) as store:
        options = "--engine", "ray", "--workers", "2"
        running = start_labeling(
            images, recipe, out, *options, RAY_ADDRESS=ray_cluster.address, FLORIST_DATABASE_URL=url
        )

        def is_halfway() -> bool:
            assert running.poll() is None, running.log.read_text()
            return any(store.count_workers(job) == 2 and store.get_progress(job).done > 3 for job in store.list_jobs())

        wait_until(is_halfway, TIMEOUT)
        ray_cluster.remove_node(nodes[1], allow_graceful=False)
        [job] = store.list_jobs()
        assert store.get_progress(job).unfinished > 5
        assert running.wait(TIMEOUT) == 1, running.log.read_text()
        assert store.get_progress(job) == JobProgress(done=SCENES + 1, failed=1, failures_by_kind={"unsupported": 1})
    assert "page.jpg: this is a web page" in running.log.read_text()
    assert read_dataset(out) == read_dataset(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_node_without_the_images_ends_the_command_with_a_message(
    images: Path, recipe: Path, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create_database()
    with start_cluster(1, monkeypatch=monkeypatch) as (ray_cluster, _):
        names = {"RAY_ADDRESS": ray_cluster.address, "FLORIST_DATABASE_URL": url}
        gone = tmp_path / "gone"
        gone.mkdir()
        (gone / "1.png").write_bytes((images / "01.png").read_bytes())
        running = start_labeling(gone, recipe, tmp_path / "out", "--engine", "ray", **names)
        with JobStore(url) as store:
            wait_until(lambda: store.list_jobs() or running.poll() is not None, TIMEOUT)
        (gone / "1.png").rename(tmp_path / "1.png")
        assert running.wait(TIMEOUT) == 2
    assert "the images cannot be read on" in running.log.read_text()
    assert "Every node must find them at this address" in running.log.read_text()
    assert "Traceback" not in running.log.read_text()
