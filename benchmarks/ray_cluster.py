"""A job on Ray with two engines against one, and against a process without Ray; each engine has one thread.

`python -m benchmarks.ray_cluster` (`pip install 'florist[ray]'`, and PostgreSQL's initdb and postgres on the machine). A
Ray of this machine alone, which it shares with the command, with Ray's own processes and with the database: with as
many engines as cores, their work is the engines' loss. The rate is that of the pictures which end while all engines are
at work; what it takes until they are is told beside it.
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

from benchmarks.cascade_job import drawn
from benchmarks.machine import apart
from benchmarks.results import Row, show
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.jobs import cluster, job_start
from server.jobs.cluster_worker import ClusterJob, EngineSetup
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store import CompletedImage, FailedImage, JobProgress, JobStore

ROOT = Path(__file__).parents[1]
RECIPE = validate_recipe({"name": "detect", "steps": [{"id": "objects", "task": "<OD>"}]})


class Pace:
    """Pictures a second, from the first moment at which all engines were at work until the last picture."""

    def __init__(self, engines: int) -> None:
        self.engines, self.began = engines, time.monotonic()
        self.marks: list[tuple[float, int]] = []

    def look(self, ended: int, at_work: int) -> None:
        if ended and (self.marks or at_work == self.engines) and (not self.marks or ended > self.marks[-1][1]):
            self.marks.append((time.monotonic(), ended))

    def rate(self) -> float:
        """Raises RuntimeError where the job was over before that."""
        if len(self.marks) < 2:
            raise RuntimeError("the job ended before all engines were at work; give it more scenes (--count)")
        (start, before), (end, after) = self.marks[0], self.marks[-1]
        return (after - before) / (end - start)

    def row(self, work: str, side: str, base: float) -> Row:
        start, before = self.marks[0]
        note = f"all engines at work after {start - self.began:.0f} s, and {before} pictures"
        return Row(work, side, self.rate(), "pictures/s", self.rate() / base, None, note)


def here(store: JobStore, pictures: Path, engine: Engine) -> Pace:
    """Labels in this process."""
    pace, ended = Pace(1), 0

    def told(_: CompletedImage | FailedImage) -> None:
        nonlocal ended
        ended += 1
        pace.look(ended, 1)

    with open_source(str(pictures)) as source:
        job = job_start.start_job(store, engine, RECIPE, source, str(pictures), "here")
        run_job(store, job, engine, source, partial(execute_recipe, RECIPE), exclusive=True, on_image=told)
    return pace


def spread(store: JobStore, database: str, pictures: Path, engine: Engine, engines: int) -> Pace:
    """Labels on Ray."""
    with open_source(str(pictures)) as source:
        job = job_start.start_job(store, engine, RECIPE, source, str(pictures), f"{engines} engines")
    loading = EngineSetup(replace(engine.config, device="cpu", dtype="float32"))
    work = ClusterJob(database, job.id, str(pictures), pictures.parent / "out", loading)
    pace = Pace(engines)

    def told(progress: JobProgress, at_work: int) -> None:
        pace.look(progress.done + progress.failed, at_work)

    cluster.run_on_cluster(store, job, work, cluster.WorkerPool(engines, engines), told)
    return pace


def main(
    count: Annotated[int, typer.Option(min=100, help="Scenes of each job.")] = 400,
    engines: Annotated[int, typer.Option(min=2, help="Against one.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints pictures a second."""
    if not find_spec("ray"):
        raise typer.BadParameter("Ray is not installed; pip install 'florist[ray]', or make bench, which does")
    sys.path.append(str(ROOT / "tests/server/jobs"))
    from tests.server.databases import Postgres  # the tests' own server

    torch.set_num_threads(1)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray names it so; as the process without Ray
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    postgres, paces = Postgres(), {}
    try:
        with tempfile.TemporaryDirectory() as folder, Engine(checkpoint) as engine:
            (pictures := Path(folder, "pictures")).mkdir()
            drawn(pictures, count)
            # A database each: what one side was told about a picture, another would not ask.
            with JobStore(postgres.database()) as store:
                paces["without Ray, 1 engine"] = here(store, pictures, engine)
            for some in (1, engines):
                with JobStore(url := postgres.database()) as store:
                    paces[f"Ray, {some} engine{'s' * (some > 1)}"] = spread(store, url, pictures, engine, some)
    finally:
        postgres.close()
    work = f"seedling, fp32, <OD> on {count} scenes, PostgreSQL, a thread an engine"
    base = paces["Ray, 1 engine"].rate()
    rows = [pace.row(work, side, base) for side, pace in paces.items()]
    show("A job on Ray", rows, out)


if __name__ == "__main__":
    typer.run(main)
