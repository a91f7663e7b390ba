"""A million annotations in each format: the time of an export, and the most memory that it held.

`python -m benchmarks.format_export`. Labels are made one picture at a time and no picture is copied; a process for each
format, so that its peak of memory is its own. Beside the time stand the annotations a second and the bytes written.
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

from benchmarks.results import Row, show
from labels.formats import FORMATS
from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Box, Polygon, Quad, Text

EACH = 10  # annotations a picture


def pictures(count: int) -> Iterator[LabeledImage]:
    """`count` pictures with six boxes, two polygons, a quad and a caption each."""
    for n in range(count):
        boxes = [Box(label=f"kind {(n + i) % 80}", score=0.5, box=(i, n % 100, 200 + i, 300)) for i in range(6)]
        ring = [float((n + 7 * i) % 480) for i in range(24)]
        polygons = [Polygon(label=f"kind {(n + i) % 80}", score=0.5, polygons=[ring]) for i in range(2)]
        others = [Quad(label="STOP", score=0.5, quad=(0, 0, 40, 0, 40, 20, 0, 20)), Text(label=f"picture {n}")]
        labels = tuple(
            TracedAnnotation(note, "full", "Locate the objects.", "kind<loc_1>", "ab" * 32)
            for note in (*boxes, *polygons, *others)
        )
        yield LabeledImage.from_traces(f"{n // 1000}/{n}.jpg", 640, 480, labels, sha256=f"{n:064x}")


def peak() -> float:
    """Megabytes, the most that this process has held so far; Linux counts in kibibytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(name: str, count: int) -> None:
    """Exports in this process, and prints seconds, megabytes of memory above what it began with, and of files."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = peak(), time.perf_counter()
        FORMATS[name].write(pictures(count), Path(folder, "out"), copy_images=False)
        took = time.perf_counter() - start
        out = Path(folder, "out")
        files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
        print(took, peak() - before, sum(path.stat().st_size for path in files) / 1e6)


def main(
    annotations: Annotated[int, typer.Option(min=EACH, help="Of all pictures together.")] = 1_000_000,
    only: Annotated[str | None, typer.Option(help="One format, in this process; its three figures.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints seconds and megabytes of memory of each format."""
    if only:
        measure(only, annotations // EACH)
        return
    rows = []
    for name in FORMATS:
        command = [sys.executable, "-m", "benchmarks.format_export", "--annotations", str(annotations), "--only", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        took, memory, written = map(float, said.split())
        work = f"{name}, {annotations:,} annotations"
        note = f"{annotations / took:,.0f} annotations/s, {written:,.0f} MB written"
        rows += [Row(work, "time", took, "s", None, None, note), Row(work, "memory above the start", memory, "MB")]
    show("Exports", rows, out)


if __name__ == "__main__":
    typer.run(main)
