"""Datasets to export, and how to compare what readers found in them."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing.export_report import ExportReport
from prompts.annotations import Box, Polygon, Quad, Text

WIDTH, HEIGHT = 640, 480
some = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def png(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = png()
# What a name of a file or of a category can hold; half surrogates, controls and separators are tested by hand.
letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/")
texts = st.text(letters, min_size=1, max_size=12).map(str.strip).filter(bool)
fractions = st.integers(0, 1000)
scores = st.one_of(st.none(), st.integers(1, 999).map(lambda n: n / 1000))
xs, ys = fractions.map(lambda n: n * WIDTH / 1000), fractions.map(lambda n: n * HEIGHT / 1000)


@st.composite
def boxes(draw: st.DrawFn, names: st.SearchStrategy[str] = texts) -> Box:
    # At least a pixel in both directions: some readers drop what is thinner.
    x1, x2 = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True)))
    y1, y2 = sorted(draw(st.lists(st.integers(0, 100), min_size=2, max_size=2, unique=True)))
    box = (x1 * WIDTH / 100, y1 * HEIGHT / 100, x2 * WIDTH / 100, y2 * HEIGHT / 100)
    return Box(label=draw(names), score=draw(scores), box=box)


@st.composite
def quads(draw: st.DrawFn) -> Quad:
    values = [draw(axis) for _ in range(4) for axis in (xs, ys)]
    return Quad(label=draw(texts), score=draw(scores), quad=tuple(values))


@st.composite
def polygons(draw: st.DrawFn, names: st.SearchStrategy[str] = texts) -> Polygon:
    sizes = draw(st.lists(st.integers(3, 6), min_size=1, max_size=3))
    rings = [[draw(axis) for _ in range(size) for axis in (xs, ys)] for size in sizes]
    return Polygon(label=draw(names), score=draw(scores), polygons=rings)


@st.composite
def captions(draw: st.DrawFn) -> Text:
    return Text(label=draw(texts), score=draw(scores))


@st.composite
def datasets(
    draw: st.DrawFn, notes: st.SearchStrategy[Any], names: st.SearchStrategy[str] = texts, folders: bool = True
) -> list[LabeledImage]:
    """One to three pictures with up to five labels each; their names differ also without their suffixes."""
    stems = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    pictures = []
    for n in stems:
        name = f"{draw(st.sampled_from(['', 'a/', 'a/b/']) if folders else st.just(''))}{n} {draw(names)}.png"
        labels = tuple(
            TracedAnnotation(note, "step", review=draw(st.sampled_from(["", "small"])))
            for note in draw(st.lists(notes, max_size=5))
        )
        pictures.append(LabeledImage.from_traces(name, WIDTH, HEIGHT, labels, lambda: PNG, sha256="0" * 64))
    return pictures


def example() -> list[LabeledImage]:
    """A picture with a label of each kind, and one with none."""
    labels = (
        TracedAnnotation(
            Box(label="cat", score=0.5, box=(1, 2, 11, 22)), "detect", "What?", "cat<loc_1>", "ab", "cd", "small"
        ),
        TracedAnnotation(Quad(label='STOP "now"\n<&', score=0.25, quad=(0, 0, 4, 0, 4, 2, 0, 2)), "read"),
        TracedAnnotation(
            Polygon(label="cat", polygons=[[0, 0, 2, 0, 2, 2], [10, 10, 12, 10, 12, 12, 10, 12]]), "cut", parent=0
        ),
        TracedAnnotation(Box(label="", box=(0, 0, 1, 1)), "propose"),
        TracedAnnotation(Text(label="a cat", score=0.9), "caption"),
    )
    return [
        LabeledImage.from_traces("a/1.png", WIDTH, HEIGHT, labels, lambda: PNG, sha256="0" * 64),
        LabeledImage.from_traces("b.png", WIDTH, HEIGHT, (), lambda: PNG, sha256="1" * 64),
    ]


def export(name: str, pictures: Iterable[LabeledImage], out: Path, copy_images: bool = True) -> ExportReport:
    return FORMATS[name].write(pictures, out, copy_images=copy_images)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def near(values: Iterable[float], digits: int = 2) -> tuple[float, ...]:
    """Rounded, so that what two sides computed can be compared; never minus zero."""
    return tuple(round(float(v), digits) + 0.0 for v in values)


def category(note: Box | Quad | Polygon) -> str:
    return "text" if isinstance(note, Quad) else note.label or "object"
