"""Jobs on a Ray cluster of several nodes, as they are typed, with PostgreSQL between them; and what an actor does."""

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
from server.jobs.cluster import ClusterJob, ClusterWorker, Loading, WorkerPool, run_on_cluster
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.sources import open_source
from server.store import Job, JobProgress, JobState, JobStore
from tests.server.databases import Postgres
from tests.server.helpers import ROOT, wait_until

SCENES = 60
TIMEOUT = 400.0  # seconds; a cluster's processes are many for a small machine
LOADING = Loading(EngineConfig("seedling", "cpu", "float32"))
RECIPE = """
name: cascade
review_below: 0.5
steps:
  - {id: things, task: <OD>, filter: {nms: 0.7, class_agnostic_nms: 0.9, max_count: 2}}
  - {id: names, task: <REGION_TO_CATEGORY>, for_each: things}
"""


# What an actor does, in this process


@pytest.fixture
def few(tmp_path: Path) -> Path:
    folder = tmp_path / "few"
    folder.mkdir()
    for seed in range(3):
        draw_scene(7000 + seed).image.save(folder / f"{seed}.png")
    return folder


def begun(store: JobStore, engine: Engine, folder: Path) -> Job:
    recipe = validate_recipe({"name": "things", "steps": [{"id": "objects", "task": "<OD>"}]})
    with open_source(str(folder)) as source:
        return job_start.start_job(store, engine, recipe, source, str(folder), "out")


def turn(work: ClusterJob) -> str:
    """What hinders an actor at its turn."""
    [fault] = ClusterWorker(work, threads=1)({"turn": [0]})["fault"]
    return fault


def test_an_actor_works_until_no_picture_is_open(url: str, engine: Engine, few: Path, tmp_path: Path) -> None:
    (few / "page.jpg").write_bytes(b"<html>")
    with JobStore(url) as store:
        job = begun(store, engine, few)
        work = ClusterJob(url, job.id, str(few), tmp_path / "out", LOADING)
        actor = ClusterWorker(work, threads=1)
        assert [actor({"turn": [n]})["fault"] for n in range(2)] == [[""], [""]]
        assert store.get_job(job.id).state is JobState.DONE
        assert store.get_progress(job) == JobProgress(done=3, failed=1, kinds={"unsupported": 1})
        assert store.count_workers(job) == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no folder", "the pictures cannot be read on HOST: there is no"),
        ("other pictures", "few does not hold the same pictures on HOST"),
        ("no model", "the model cannot be loaded on HOST: "),
        ("no adapter", "the model cannot be loaded on HOST: "),
        ("other florist", "and the command is 0.0.1: install the same on all"),
    ],
)
def test_an_actor_that_cannot_work_says_what_is_wrong_and_where(
    url: str, engine: Engine, few: Path, tmp_path: Path, fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "HOST")
    with JobStore(url) as store:
        job = begun(store, engine, few)
        work = ClusterJob(url, job.id, str(few), tmp_path / "out", LOADING)
        if fault == "no folder":
            work = replace(work, pictures=str(tmp_path / "nowhere"))
        elif fault == "other pictures":
            (few / "1.png").unlink()
        elif fault == "no model":
            work = replace(
                work, loading=replace(LOADING, config=replace(LOADING.config, model=str(tmp_path / "nowhere")))
            )
        elif fault == "no adapter":
            work = replace(work, loading=replace(LOADING, adapters=(("project", tmp_path / "nowhere"),)))
        else:
            work = replace(work, version="0.0.1")
        assert said in turn(work)
        assert store.get_progress(job).waiting == 3


def test_a_picture_that_is_gone_on_a_node_may_be_there_on_another(
    url: str, engine: Engine, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "HOST")
    with JobStore(url) as store:
        job = begun(store, engine, few)
        actor = ClusterWorker(ClusterJob(url, job.id, str(few), tmp_path / "out", LOADING), threads=1)
        (few / "1.png").unlink()
        assert actor({"turn": [0]})["fault"] == [""]
        [failure] = store.iter_failures(job)
    assert (failure.name, failure.kind, failure.tries) == ("1.png", "unreachable", 3)
    assert failure.reason == "there is no such file (on HOST)"


def test_a_pool_is_as_large_as_there_is_room_for() -> None:
    assert WorkerPool().fitted({"CPU": 16}, gpu=False).most == 16
    assert WorkerPool(cpus=4).fitted({"CPU": 18}, gpu=False).most == 4
    assert WorkerPool(cpus=4).fitted({"CPU": 18, "GPU": 2}, gpu=True).most == 2
    assert WorkerPool(3).fitted({"CPU": 1}, gpu=False).most == 3
    assert WorkerPool(1, 50).fitted({"CPU": 1}, gpu=True).most == 50  # what Ray's autoscaler may yet bring


def test_a_job_that_has_ended_needs_no_cluster(
    url: str, engine: Engine, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with JobStore(url) as store:
        job = begun(store, engine, few)
        work = ClusterJob(url, job.id, str(few), tmp_path / "out", LOADING)
        assert turn(work) == ""
        assert run_on_cluster(store, store.get_job(job.id), work, WorkerPool(), lambda *_: None).state is JobState.DONE


# On clusters


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, one of them twice, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
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


class Labelling(subprocess.Popen[bytes]):
    log: Path


def label(pictures: Path, recipe: Path, out: Path, *options: str, **environment: str) -> Labelling:
    """`florist label`, begun."""
    command = [
        sys.executable,
        "-m",
        "server.cli.main",
        "label",
        str(pictures),
        "--recipe",
        str(recipe),
        "--out",
        str(out),
    ]
    command += ["--format", "coco", "--format", "jsonl", "--device", "cpu", *options]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLORIST_", "RAY_"))}
    log = out.with_suffix(".log")
    with log.open("ab") as file:
        started = Labelling(
            command, stdout=file, stderr=file, cwd=ROOT, env=clean | {"OMP_NUM_THREADS": "1"} | environment
        )
    started.log = log
    return started


def dataset(out: Path) -> dict[str, bytes]:
    paths = [out / "labels.jsonl", *(out / "coco").rglob("*")]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.is_file()}


@contextmanager
def cluster(*cpus: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[Any]]]:
    """One of a head that does not work, and nodes of so many cores."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # else whatever else runs on this machine goes first
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=count) for count in cpus]
    finally:
        made.shutdown()


@pytest.mark.slow
def test_a_node_is_killed_midway(
    pictures: Path, recipe: Path, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = label(pictures, recipe, tmp_path / "undisturbed")
    assert undisturbed.wait(TIMEOUT) == 1, undisturbed.log.read_text()
    url, out = postgres.database(), tmp_path / "out"
    with cluster(1, 1, monkeypatch=monkeypatch) as (made, nodes), JobStore(url) as store:
        options = "--engine", "ray", "--workers", "2"
        running = label(pictures, recipe, out, *options, RAY_ADDRESS=made.address, FLORIST_DATABASE_URL=url)

        def midway() -> bool:
            assert running.poll() is None, running.log.read_text()
            return any(store.count_workers(job) == 2 and store.get_progress(job).done > 3 for job in store.list_jobs())

        wait_until(midway, TIMEOUT)
        made.remove_node(nodes[1], allow_graceful=False)
        [job] = store.list_jobs()
        assert store.get_progress(job).open > 5
        assert running.wait(TIMEOUT) == 1, running.log.read_text()
        assert store.get_progress(job) == JobProgress(done=SCENES + 1, failed=1, kinds={"unsupported": 1})
    assert "page.jpg: this is a web page" in running.log.read_text()
    assert dataset(out) == dataset(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_node_that_lacks_the_pictures_ends_the_command_and_says_so(
    pictures: Path, recipe: Path, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.database()
    with cluster(1, monkeypatch=monkeypatch) as (made, _):
        names = {"RAY_ADDRESS": made.address, "FLORIST_DATABASE_URL": url}
        gone = tmp_path / "gone"
        gone.mkdir()
        (gone / "1.png").write_bytes((pictures / "01.png").read_bytes())
        running = label(gone, recipe, tmp_path / "out", "--engine", "ray", **names)
        with JobStore(url) as store:
            wait_until(lambda: store.list_jobs() or running.poll() is not None, TIMEOUT)
        (gone / "1.png").rename(tmp_path / "1.png")
        assert running.wait(TIMEOUT) == 2
    assert "the pictures cannot be read on" in running.log.read_text()
    assert "Every node must find them by this name" in running.log.read_text()
    assert "Traceback" not in running.log.read_text()
