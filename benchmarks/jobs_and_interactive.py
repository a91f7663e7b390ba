"""What people wait while a job runs on the same engine, beside what they wait when none does.

`python -m benchmarks.jobs_and_interactive`. The job is a real one: the cascade's recipe over a folder of scenes, by the jobs' runner,
which reads, decodes, asks and writes beside the prompts. People come as they like (Poisson) at a share of the engine's
capacity, each with a picture that is new; a prompt's time runs from when it was scheduled to arrive.
"""

import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cascade_job import RECIPE, drawn
from benchmarks.machine import apart, timed
from benchmarks.poisson_arrivals import latencies, percentiles
from benchmarks.results import Row, show
from benchmarks.workloads import new_pictures, together
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.jobs import job_start
from server.jobs.recipes.execution import execute_recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store import CompletedImage, FailedImage, JobStore, file_url

SHARE = 0.3  # of the engine's capacity


class Background:
    """A job under way from `start` to `stop`, longer than anybody will look."""

    def __init__(self, engine: Engine, folder: Path, scenes: int) -> None:
        pictures = folder / "pictures"
        pictures.mkdir()
        drawn(pictures, scenes)
        self.store = JobStore(file_url(folder / "florist.db"))
        self.source = open_source(str(pictures))
        self.job = job_start.start_job(self.store, engine, RECIPE, self.source, str(pictures), ".")
        self.ended, self.total = 0, scenes
        self._warm, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(engine,))

    def start(self) -> None:
        """Returns when it is in full swing. Raises RuntimeError where it ended before that."""
        self._thread.start()
        while not self._warm.wait(1):
            if not self._thread.is_alive():
                raise RuntimeError(f"the job ended after {self.ended} of {self.total} scenes, before it was warm")

    def stop(self) -> None:
        """Ends it, midway. Raises ValueError where it had ended before."""
        self._over.set()
        self._thread.join()
        self.store.close()
        if self.ended >= self.total:
            raise ValueError(f"the job of {self.total} scenes ended before the people; give it more scenes")

    def _run(self, engine: Engine) -> None:
        def told(_: CompletedImage | FailedImage) -> None:
            self.ended += 1
            if self.ended == 2 * engine.config.max_batch:
                self._warm.set()

        run_job(
            self.store, self.job, engine, self.source, lambda size: execute_recipe(RECIPE, size), exclusive=True, on_image=told,
            stop=self._over,
        )  # fmt: skip


def main(
    count: Annotated[int, typer.Option(min=20, help="Prompts of people.")] = 300,
    scenes: Annotated[int, typer.Option(min=100, help="Scenes of the job, more than it gets to.")] = 800,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints p50 and p99 of prompts without and beside a job, and how fast the job is meanwhile."""
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    with tempfile.TemporaryDirectory() as name, Engine(checkpoint, EngineConfig(feature_cache_bytes=0)) as engine:
        together(engine, new_pictures(32, first=9000))
        took, _ = timed(lambda: together(engine, new_pictures(100, first=10_000)))
        capacity = 100 / took
        people = new_pictures(count)
        alone = latencies(engine, people, SHARE * capacity, seed=7)
        job = Background(engine, Path(name), scenes)
        job.start()
        before = job.ended
        took, beside = timed(lambda: latencies(engine, people, SHARE * capacity, seed=7))
        ended = job.ended - before
        job.stop()
    work = f"seedling, fp32, greedy, a new picture each: {count} prompts of people at {SHARE:.0%} of capacity"
    rows = [
        Row(work, "capacity", capacity, "prompts/s"),
        *percentiles(work, "without a job", alone),
        *percentiles(work, "beside a job", beside),
        Row(work, "the job meanwhile", ended / took, "pictures/s"),
    ]
    show("Interactive prompts beside a job", rows, out)


if __name__ == "__main__":
    typer.run(main)
