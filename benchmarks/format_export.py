"""Exporting a million annotations in each format: time and memory.

`python -m benchmarks.format_export`. Labels are generated one image at a time and no image is copied. Each format runs
in its own process, so that its peak of memory is its own. The notes give annotations per second and bytes written.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.results import Measurement, report_measurements
from labels.formats import FORMATS
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

PER_IMAGE = 10  # annotations


def make_labeled_images(count: int) -> Iterator[LabeledImage]:
    """Yields `count` images with six boxes, two polygons, a quad and a caption each."""
    for n in range(count):
        boxes = [Box(label=f"kind {(n + i) % 80}", score=0.5, box=(i, n % 100, 200 + i, 300)) for i in range(6)]
        ring = [float((n + 7 * i) % 480) for i in range(24)]
        polygons = [Polygon(label=f"kind {(n + i) % 80}", score=0.5, polygons=[ring]) for i in range(2)]
        others: list[Annotation] = [
            Quad(label="STOP", score=0.5, quad=(0, 0, 40, 0, 40, 20, 0, 20)),
            Text(label=f"image {n}"),
        ]
        annotations: list[Annotation] = [*boxes, *polygons, *others]
        traces = tuple(
            TracedAnnotation(annotation, "full", "Locate the objects.", "kind<loc_1>", "ab" * 32)
            for annotation in annotations
        )
        yield LabeledImage.from_traces(f"{n // 1000}/{n}.jpg", 640, 480, traces, sha256=f"{n:064x}")


def read_peak_megabytes() -> float:
    """Returns the largest memory of this process so far. Linux counts in kibibytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def run_export(name: str, count: int) -> None:
    """Exports in this process; prints seconds, megabytes of memory above the start, and megabytes of files."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = read_peak_megabytes(), time.perf_counter()
        FORMATS[name].write(make_labeled_images(count), Path(folder, "out"), placement=ImagePlacement.NONE)
        seconds = time.perf_counter() - start
        out = Path(folder, "out")
        files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
        print(seconds, read_peak_megabytes() - before, sum(path.stat().st_size for path in files) / 1e6)


def main(
    annotations: Annotated[int, typer.Option(min=PER_IMAGE, help="Annotations of all images.")] = 1_000_000,
    only: Annotated[str | None, typer.Option(help="Run one format in this process; prints three numbers.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the seconds and the megabytes of memory of each format."""
    if only:
        run_export(only, annotations // PER_IMAGE)
        return
    measurements = []
    for name in FORMATS:
        command = [sys.executable, "-m", "benchmarks.format_export", "--annotations", str(annotations), "--only", name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds, memory, written = map(float, printed.split())
        workload = f"{name}, {annotations:,} annotations"
        note = f"{annotations / seconds:,.0f} annotations/s, {written:,.0f} MB written"
        measurements.append(Measurement(workload, "time", seconds, "s", None, None, note))
        measurements.append(Measurement(workload, "memory above the start", memory, "MB"))
    report_measurements("Exports", measurements, out)


if __name__ == "__main__":
    typer.run(main)
