"""Latency of interactive prompts while a job runs on the same engine, and without it.

`python -m benchmarks.jobs_and_interactive`. The job is a real one: the recipe of `benchmarks.cascade_job` over a folder
of scenes, run by the server's job runner, which reads, decodes, prompts and writes. Interactive prompts arrive at
random (Poisson) at a fraction of the engine's capacity, with a new image each. Their time runs from the scheduled
arrival.
"""

import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cascade_job import RECIPE
from benchmarks.machine import run_in_thread, time_call
from benchmarks.poisson_arrivals import compute_percentiles, measure_latencies
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import make_new_image_requests, run_concurrently, save_scenes
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs import job_start
from server.jobs.recipes.execution import execute_recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store import CompletedImage, FailedImage
from server.store.database import to_file_url
from server.store.jobs.job_store import JobStore

LOAD = 0.3  # of the engine's capacity


class BackgroundJob:
    """A job that runs between `start` and `stop`, with more scenes than it can finish."""

    def __init__(self, engine: Engine, folder: Path, scenes: int) -> None:
        images = folder / "images"
        images.mkdir()
        save_scenes(images, scenes)
        self.store = JobStore(to_file_url(folder / "florist.db"))
        self.source = open_source(str(images))
        self.job = job_start.start_job(self.store, engine, RECIPE, self.source, str(images), ".")
        self.finished, self.total = 0, scenes
        self._warm, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(engine,))

    def start(self) -> None:
        """Returns when the job runs at full speed. Raises RuntimeError if it ends before that."""
        self._thread.start()
        while not self._warm.wait(1):
            if not self._thread.is_alive():
                raise RuntimeError(f"the job ended after {self.finished} of {self.total} scenes, before it was warm")

    def stop(self) -> None:
        """Stops the job midway. Raises ValueError if it had ended before."""
        self._stop.set()
        self._thread.join()
        self.store.close()
        if self.finished >= self.total:
            raise ValueError(f"the job of {self.total} scenes ended too early; use more scenes (--scenes)")

    def _run(self, engine: Engine) -> None:
        def on_image(_: CompletedImage | FailedImage) -> None:
            self.finished += 1
            if self.finished == 2 * engine.config.max_batch:
                self._warm.set()

        run_job(
            self.store, self.job, engine, self.source, lambda size: execute_recipe(RECIPE, size), exclusive=True,
            on_image=on_image, stop=self._stop,
        )  # fmt: skip


def main(
    count: Annotated[int, typer.Option(min=20, help="Interactive prompts.")] = 300,
    scenes: Annotated[int, typer.Option(min=100, help="Scenes of the job; more than it can finish.")] = 800,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints p50 and p99 of prompts with and without a job, and the job's throughput meanwhile."""
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    with tempfile.TemporaryDirectory() as name, Engine(checkpoint, EngineConfig(feature_cache_bytes=0)) as engine:
        run_concurrently(engine, make_new_image_requests(32, first=9000))
        seconds, _ = time_call(lambda: run_concurrently(engine, make_new_image_requests(100, first=10_000)))
        capacity = 100 / seconds
        prompts = make_new_image_requests(count)
        without_job = measure_latencies(engine, prompts, LOAD * capacity, seed=7)
        job = BackgroundJob(engine, Path(name), scenes)
        job.start()
        before = job.finished
        seconds, with_job = time_call(lambda: measure_latencies(engine, prompts, LOAD * capacity, seed=7))
        finished = job.finished - before
        job.stop()
    workload = (
        f"seedling, fp32, greedy, one new image per prompt: {count} interactive prompts at {LOAD:.0%} of capacity"
    )
    measurements = [
        Measurement(workload, "capacity", capacity, "prompts/s"),
        *compute_percentiles(workload, "without a job", without_job),
        *compute_percentiles(workload, "with a job", with_job),
        Measurement(workload, "the job meanwhile", finished / seconds, "images/s"),
    ]
    report_measurements("Interactive prompts during a job", measurements, out)


if __name__ == "__main__":
    typer.run(main)
