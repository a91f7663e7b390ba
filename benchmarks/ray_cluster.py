"""A job on Ray with two engines against one, and against a process without Ray; each engine has one thread.

`python -m benchmarks.ray_cluster` (`make .venv/ray`, and PostgreSQL's initdb and postgres on the machine).
Ray runs on this machine only and shares it with the command, with Ray's own processes and with the database: with as
many engines as cores, their work slows the engines down. The rate counts images that finish while all engines run; the
time until then is in the notes.
"""

import os
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.machine import run_in_thread
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import save_scenes
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.jobs import cluster, job_start
from server.jobs.cluster_worker import ClusterJob, EngineSetup
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store import CompletedImage, FailedImage, JobProgress
from server.store.jobs.job_store import JobStore

ROOT = Path(__file__).parents[1]
RECIPE = validate_recipe({"name": "detect", "steps": [{"id": "objects", "task": "<OD>"}]})


class ThroughputMeter:
    """Measures images per second from the first moment when all engines run until the last image."""

    def __init__(self, engines: int) -> None:
        self.engines, self.started = engines, time.monotonic()
        self.points: list[tuple[float, int]] = []

    def record(self, finished: int, running: int) -> None:
        """Records that `finished` images are done while `running` engines run."""
        if not finished or (not self.points and running != self.engines):
            return
        if not self.points or finished > self.points[-1][1]:
            self.points.append((time.monotonic(), finished))

    def compute_rate(self) -> float:
        """Returns images per second. Raises RuntimeError if the job ended before all engines ran."""
        if len(self.points) < 2:
            raise RuntimeError("the job ended before all engines were running; use more scenes (--count)")
        (start, before), (end, after) = self.points[0], self.points[-1]
        return (after - before) / (end - start)

    def to_measurement(self, workload: str, system: str, baseline: float) -> Measurement:
        """Returns the rate with its speedup over `baseline`."""
        start, before = self.points[0]
        note = f"all engines running after {start - self.started:.0f} s and {before} images"
        rate = self.compute_rate()
        return Measurement(workload, system, rate, "images/s", rate / baseline, None, note)


def run_in_process(store: JobStore, images: Path, engine: Engine) -> ThroughputMeter:
    """Runs a job in this process."""
    meter, finished = ThroughputMeter(1), 0

    def on_image(_: CompletedImage | FailedImage) -> None:
        nonlocal finished
        finished += 1
        meter.record(finished, 1)

    with open_source(str(images)) as source:
        job = job_start.start_job(store, engine, RECIPE, source, str(images), "in process")
        run_job(store, job, engine, source, partial(execute_recipe, RECIPE), exclusive=True, on_image=on_image)
    return meter


def run_on_ray(store: JobStore, database: str, images: Path, engine: Engine, engines: int) -> ThroughputMeter:
    """Runs a job on Ray."""
    with open_source(str(images)) as source:
        job = job_start.start_job(store, engine, RECIPE, source, str(images), f"{engines} engines")
    setup = EngineSetup(replace(engine.config, device="cpu", dtype="float32"))
    cluster_job = ClusterJob(database, job.id, str(images), images.parent / "out", setup)
    meter = ThroughputMeter(engines)

    def on_progress(progress: JobProgress, running: int) -> None:
        meter.record(progress.done + progress.failed, running)

    cluster.run_on_cluster(store, job, cluster_job, cluster.WorkerPool(engines, engines), on_progress)
    return meter


def main(
    count: Annotated[int, typer.Option(min=100, help="Scenes of each job.")] = 400,
    engines: Annotated[int, typer.Option(min=2, help="Engines to compare with one.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints images per second."""
    if not find_spec("ray"):
        raise typer.BadParameter("Ray is not installed: make .venv/ray, or make bench")
    sys.path.append(str(ROOT))
    from tests.server.databases import Postgres  # the server that the tests use

    torch.set_num_threads(1)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own name; the same as the process without Ray
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    postgres, meters = Postgres(), {}
    try:
        with tempfile.TemporaryDirectory() as folder, Engine(checkpoint) as engine:
            (images := Path(folder, "images")).mkdir()
            save_scenes(images, count)
            # Each system has its own database: answers stored for one would be reused by another.
            with JobStore(postgres.create_database()) as store:
                meters["without Ray, 1 engine"] = run_in_process(store, images, engine)
            for number in (1, engines):
                with JobStore(url := postgres.create_database()) as store:
                    system = f"Ray, {number} engine{'s' * (number > 1)}"
                    meters[system] = run_on_ray(store, url, images, engine, number)
    finally:
        postgres.close()
    workload = f"seedling, fp32, <OD> on {count} scenes, PostgreSQL, one thread per engine"
    baseline = meters["Ray, 1 engine"].compute_rate()
    measurements = [meter.to_measurement(workload, system, baseline) for system, meter in meters.items()]
    report_measurements("A job on Ray", measurements, out)


if __name__ == "__main__":
    typer.run(main)
