"""Memory of jobs with a thousand, ten thousand and a hundred thousand images: it must not grow with the job.

`python -m benchmarks.job_memory`. Runner, recipe, source and store are those of every job. The images are tiny and all
different. Instead of a model there is a fake that answers each prompt at once with the same two boxes; the memory of
the model is measured by `benchmarks.engine_memory`. Each job runs in its own process. Linux only.
"""

import gc
import io
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.engine_memory import read_resident_megabytes
from benchmarks.results import Measurement, report_measurements
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
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.source import ImageSource, Reserve
from server.store.database import to_file_url
from server.store.jobs.job_store import JobStore

RECIPE = validate_recipe(
    {"name": "cascade", "steps": [{"id": "objects", "task": "<OD>", "check": True, "filter": {"nms": 0.7}}]}
)
SAMPLES = 20
BOXES: list[Annotation] = [
    Box(label="cat", score=0.9, box=(1, 1, 9, 9)),
    Box(label="dog", score=0.4, box=(6, 2, 15, 11)),
]


class TinyImageSource(ImageSource):
    """Images of 16 × 12 pixels that are created when they are read."""

    def __init__(self, count: int) -> None:
        listing = ImageListing()
        for n in range(count):
            listing.add(f"{n // 1000:04}/{n:07}.bmp")
        super().__init__(listing)

    def _read(self, position: int, reserve: Reserve) -> bytes:
        file = io.BytesIO()
        color = position % 256, position // 256 % 256, position // 65536
        Image.new("RGB", (16, 12), color).save(file, "BMP")
        return file.getvalue()


class FakeEngine:
    """Answers at once, with the interface of the engine."""

    config = EngineConfig()
    checkpoint = SimpleNamespace(sha256="ab" * 32, name="fake")

    def list_adapters(self) -> list[Any]:
        return []

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def submit_blocking(self, request: Request, stop: threading.Event) -> Handle:
        handle = Handle(lambda: None)
        is_detection = request.task.answer_kind is AnswerKind.BOXES
        annotations: list[Annotation] = BOXES if is_detection else [Text(label="cat", score=0.8)]
        handle.set_result(Result(annotations, "cat<loc_1><loc_2><loc_3><loc_4>" * 2, [0], [0.0], "stop"))
        return handle


@dataclass(slots=True)
class MemorySampler:
    """Samples the memory every `interval` images."""

    interval: int
    finished: int = 0
    samples: list[float] = field(default_factory=list)

    def __call__(self, _: object) -> None:
        self.finished += 1
        if self.finished % self.interval == 0:
            self.samples.append(read_resident_megabytes())


def run_tiny_job(count: int) -> None:
    """Runs a job in this process.

    Prints megabytes after its first tenth, at its end, at most, and after the export, and seconds.
    """
    engine: Any = FakeEngine()
    with tempfile.TemporaryDirectory() as name, JobStore(to_file_url(Path(name) / "florist.db")) as store:
        source, sampler = TinyImageSource(count), MemorySampler(max(1, count // SAMPLES))
        start = time.perf_counter()
        started = job_start.start_job(store, engine, RECIPE, source, "tiny", ".")
        job = run_job(
            store, started, engine, source, lambda size: execute_recipe(RECIPE, size), exclusive=True, on_image=sampler
        )
        seconds, samples = time.perf_counter() - start, sampler.samples
        assert store.get_progress(job).done == count
        report = FORMATS["coco"].write(store.iter_images(job), Path(name, "coco"))
        assert report.images == count
        gc.collect()
        print(samples[len(samples) // 10 - 1], samples[-1], max(samples), read_resident_megabytes(), seconds)


def measure_jobs(counts: list[int]) -> Iterator[Measurement]:
    """Runs each job in its own process and yields its measurements."""
    for count in counts:
        command = [sys.executable, "-m", "benchmarks.job_memory", "--only", str(count)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        early, late, most, after, seconds = map(float, printed.split())
        workload = f"a job of {count:,} tiny images"
        growth = f"{(late - early) * 1e3 / (0.9 * count):+.3f} kB/image"
        yield Measurement(workload, "after its first tenth", early, "MB")
        yield Measurement(workload, "at its end", late, "MB", note=growth)
        yield Measurement(workload, "maximum", most, "MB")
        yield Measurement(workload, "after the export", after, "MB", note=f"the job took {seconds:.0f} s")


def main(
    count: Annotated[list[int], typer.Option(help="Images of a job.")] = [1_000, 10_000, 100_000],  # noqa: B006
    only: Annotated[int | None, typer.Option(help="Run one job in this process; prints five numbers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the memory of jobs of several sizes."""
    if only:
        run_tiny_job(only)
        return
    report_measurements("Resident memory of a job", list(measure_jobs(count)), out)


if __name__ == "__main__":
    typer.run(main)
