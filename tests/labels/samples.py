"""Images for exports, and helpers that compare what other readers find in the exports."""

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
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

WIDTH, HEIGHT = 640, 480
some = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def make_png(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = make_png()
# Letters of file and category names. Surrogates, control characters and separators have their own tests.
letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="/")
texts = st.text(letters, min_size=1, max_size=12).map(str.strip).filter(bool)
fractions = st.integers(0, 1000)
scores = st.one_of(st.none(), st.integers(1, 999).map(lambda n: n / 1000))
xs, ys = fractions.map(lambda n: n * WIDTH / 1000), fractions.map(lambda n: n * HEIGHT / 1000)


@st.composite
def boxes(draw: st.DrawFn, names: st.SearchStrategy[str] = texts) -> Box:
    # At least one pixel wide and high: some readers drop thinner boxes.
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
def lists_of_images(
    draw: st.DrawFn, annotations: st.SearchStrategy[Any], names: st.SearchStrategy[str] = texts, folders: bool = True
) -> list[LabeledImage]:
    """One to three images with up to five annotations each. Their names differ even without the suffixes."""
    stems = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    images = []
    for n in stems:
        name = f"{draw(st.sampled_from(['', 'a/', 'a/b/']) if folders else st.just(''))}{n} {draw(names)}.png"
        labels = tuple(
            TracedAnnotation(annotation, "step", review=draw(st.sampled_from(["", "small"])))
            for annotation in draw(st.lists(annotations, max_size=5))
        )
        images.append(LabeledImage.from_traces(name, WIDTH, HEIGHT, labels, lambda: PNG, sha256="0" * 64))
    return images


def make_example_images() -> list[LabeledImage]:
    """Returns an image with an annotation of each kind, and one without annotations."""
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


def export(
    name: str, images: Iterable[LabeledImage], out: Path, placement: ImagePlacement = ImagePlacement.COPY
) -> ExportReport:
    return FORMATS[name].write(images, out, placement)


def read_tree(folder: Path) -> dict[str, bytes]:
    """Returns the content of every file in a folder, hidden files included."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def round_values(values: Iterable[float], digits: int = 2) -> tuple[float, ...]:
    """Returns rounded values, so that two computations can be compared; never minus zero."""
    return tuple(round(float(v), digits) + 0.0 for v in values)


def list_coordinates(annotation: Annotation) -> list[float]:
    """Returns all coordinates of an annotation in order; none for a text."""
    match annotation:
        case Box():
            return list(annotation.box)
        case Quad():
            return list(annotation.quad)
        case Polygon():
            return [value for ring in annotation.polygons for value in ring]
        case Text():
            return []


def expect_category(annotation: Box | Quad | Polygon) -> str:
    return "text" if isinstance(annotation, Quad) else annotation.label or "object"
