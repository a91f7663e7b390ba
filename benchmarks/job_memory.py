"""Memory over jobs of a thousand, ten thousand and a hundred thousand pictures: it must not grow with the job.

`python -m benchmarks.job_memory`. The runner, the recipe, the source and the store are those of every job. The pictures
are thin ones, of a few pixels and all different, and instead of a model there is one that answers each prompt at once
with the same two boxes: what a model keeps, `benchmarks.engine_memory` measures. A process for each job. Linux only.
"""

import gc
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.engine_memory import resident
from benchmarks.results import Row, show
from labels.formats import FORMATS
from prompts.annotations import Annotation, Box, Text
from prompts.tasks import AnswerKind
from server.engine.config import EngineConfig
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.jobs import job_start
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.runner import run_job
from server.jobs.sources.source import ImageListing, ImageSource
from server.store import JobStore, file_url

RECIPE = validate_recipe(
    {"name": "cascade", "steps": [{"id": "objects", "task": "<OD>", "check": True, "filter": {"nms": 0.7}}]}
)
SAMPLES = 20
BOXES: list[Annotation] = [
    Box(label="cat", score=0.9, box=(1, 1, 9, 9)),
    Box(label="dog", score=0.4, box=(6, 2, 15, 11)),
]


class Thin(ImageSource):
    """Pictures of 16 × 12 pixels, made when they are read."""

    def __init__(self, count: int) -> None:
        listing = ImageListing()
        for n in range(count):
            listing.add(f"{n // 1000:04}/{n:07}.bmp")
        super().__init__(listing)

    def _read(self, position: int) -> bytes:
        file = io.BytesIO()
        color = position % 256, position // 256 % 256, position // 65536
        Image.new("RGB", (16, 12), color).save(file, "BMP")
        return file.getvalue()


class Model:
    """Answers in no time, as the engine would."""

    config = EngineConfig()
    checkpoint = SimpleNamespace(sha256="ab" * 32, name="fake")

    def list_adapters(self) -> list[Any]:
        return []

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def submit_blocking(self, request: Request, stop: threading.Event) -> Handle:
        handle = Handle(lambda: None)
        notes = BOXES if request.task.answer_kind is AnswerKind.BOXES else [Text(label="cat", score=0.8)]
        handle.set_result(Result(notes, "cat<loc_1><loc_2><loc_3><loc_4>" * 2, [0], [0.0], "stop"))
        return handle


@dataclass(slots=True)
class Watch:
    """Memory each time that another share of the job is done."""

    every: int
    ended: int = 0
    seen: list[float] | None = None

    def __call__(self, _: object) -> None:
        self.ended += 1
        if self.ended % self.every == 0:
            self.seen = [*(self.seen or []), resident()]


def measure(count: int) -> None:
    """Runs a job in this process; prints megabytes of the whole after its first tenth, at its end, and after the
    export, and seconds."""
    model: Any = Model()
    with tempfile.TemporaryDirectory() as name, JobStore(file_url(Path(name) / "florist.db")) as store:
        source, watch, start = Thin(count), Watch(max(1, count // SAMPLES)), time.perf_counter()
        begun = job_start.start_job(store, model, RECIPE, source, "thin", ".")
        ended = run_job(
            store, begun, model, source, lambda size: execute_recipe(RECIPE, size), exclusive=True, on_image=watch
        )
        took, seen = time.perf_counter() - start, watch.seen or []
        assert store.get_progress(ended).done == count
        report = FORMATS["coco"].write(store.iter_images(ended), Path(name, "coco"), copy_images=False)
        assert report.images == count
        gc.collect()
        print(seen[len(seen) // 10 - 1], seen[-1], max(seen), resident(), took)


def measured(counts: list[int]) -> Iterator[Row]:
    """The rows of each job."""
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.job_memory", "--only", str(count)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        early, late, most, after, took = map(float, said.split())
        work = f"a job of {count:,} thin pictures"
        yield Row(work, "after its first tenth", early, "MB")
        yield Row(work, "at its end", late, "MB", note=f"{(late - early) * 1e3 / (0.9 * count):+.3f} kB a picture")
        yield Row(work, "most", most, "MB")
        yield Row(work, "after the export", after, "MB", note=f"the job took {took:.0f} s")


def main(
    count: Annotated[list[int], typer.Option(help="Pictures of a job.")] = [1_000, 10_000, 100_000],  # noqa: B006
    only: Annotated[int | None, typer.Option(help="One job, in this process; its five figures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints the memory of jobs of several sizes."""
    if only:
        measure(only)
        return
    show("Resident memory of a job", list(measured(count)), out)


if __name__ == "__main__":
    typer.run(main)
