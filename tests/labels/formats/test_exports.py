"""What the readers of each format find in an export: the same labels, on the same images, whatever they are called."""

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from labels.formats import FORMATS
from labels.geometry import bounding_box, to_rings
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from tests.labels.formats.consumer_rules import READERS, Label, read_renamed
from tests.labels.samples import list_coordinates

WIDTH, HEIGHT = 400, 300
FOLDERS = [
    "",
    "a/",
    "images/",
    "a/images/",
    "images/images/",
    "../",
    "a b/",
    "v1.2/",
    ".h/",
    "x,y/",
    "#/",
    "train/",
    "val/a/",
]
RULE_FOLDERS = [*FOLDERS, "labels/", "a/labels/"]
STEMS = ["a", "A", "a.b", "images", "2024-05-01T12:30:05", " a", "a ", "a.", "#a", "x" * 251, "é", "e\u0301", "a\nb"]
STEMS += ['a"b', "a'b", "a,b", "<a&b>", "%41", "a?b*[c]", "a\\b", "\udcffa", "\u2028", "con", "a-2", "犬", ".a", "a\tb"]
SUFFIXES = [".png", ".jpg", ".PNG", ".jpeg", ".webp", "", ".v2", ". png"]
CLASSES = [
    "cat",
    "yes",
    "no",
    "null",
    "~",
    "007",
    "1.0",
    "0x1F",
    "a,b",
    'a"b',
    "a: b",
    "- a",
    "# a",
    "{a}",
    "[a]",
    "*a",
]
CLASSES += [
    "&a",
    "<b>&amp;",
    "<loc1>",
    "<loc_x>",
    "犬",
    "🐈\u200d⬛",
    "text",
    "caption",
    "object",
    "background",
    "a'b",
    "%",
]
CLASSES += ["!a", "a\u00a0b", "é", "e\u0301", "١", "a|b", "\\n", "N/A", "nan", "True", "x" * 200]
classes = st.sampled_from(CLASSES)
scores = st.one_of(st.none(), st.integers(1, 999).map(lambda n: n / 1000))
reviews = st.sampled_from(["", "low score", "a\nb"])
near_border = [0.0, 0.4, 1.0, 99.999, 100.0, 101.03]
# What is in details.jsonl, and not in the files of the format.
LOST = {"yolo-detect": "quad text", "yolo-segment": "box quad text", "voc": "quad text"}
BOXES_ONLY = ("yolo-detect", "voc")
NAMES = ["description", "phrases", "words", "color", "door color", "Größe", "a<b", "yes"]
VALUES = st.sampled_from(
    ["a small <red> & blue hat", "犬; 🐈", "no", "0", "1.50", 'a "b", c', "x" * 300, "<loc_1>", "text"]
)
TOLERANCE = {"voc": 1.0, "yolo-detect": 0.001, "yolo-segment": 0.001}


def encode_image(number: int) -> bytes:
    """Returns an image that can be told by its color."""
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (number, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [encode_image(number) for number in range(5)]


def get_number(path: Path) -> int:
    with Image.open(path) as image:
        return int(image.convert("RGB").getpixel((0, 0))[0])  # type: ignore[index]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = draw(st.sampled_from([*near_border, 201.5, 397.0])), draw(st.sampled_from([*near_border, 297.0]))
    width, height = (draw(st.sampled_from([1.0, 1.37, 2.9, 90.123456])) for _ in range(2))
    box = (x, y, min(x + width, WIDTH), min(y + height, HEIGHT))
    return Box(label=draw(classes), score=draw(scores), box=box)


@st.composite
def polygons(draw: st.DrawFn) -> Polygon:
    """One to three rings that are apart, of three to five corners; some touch the border."""
    rings = []
    for place in draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)):
        x, y = 100.0 * place, draw(st.sampled_from([0.0, 57.125, 239.0]))
        dx, dy = draw(st.sampled_from([7.0, 60.333])), draw(st.sampled_from([7.5, 61.0]))
        corners = [x, y, x + dx, y, x + dx - 1, y + dy, x + 2, y + dy - 3, x + 1, y + dy / 2]
        rings.append(corners[: 2 * draw(st.integers(3, 5))])
    return Polygon(label=draw(classes), score=draw(scores), polygons=rings)


@st.composite
def quads(draw: st.DrawFn) -> Quad:
    x, y = draw(st.sampled_from([0.0, 13.7, 330.0])), draw(st.sampled_from([0.0, 255.5]))
    return Quad(label=draw(classes), score=draw(scores), quad=(x, y, x + 60, y + 2, x + 61, y + 30.25, x + 1, y + 29))


@st.composite
def labeled_images(draw: st.DrawFn, folders: Sequence[str] = FOLDERS) -> list[LabeledImage]:
    """Two to four images. Names are unique, as in every source, but may differ only in case or suffix."""
    names = st.tuples(*map(st.sampled_from, (folders, STEMS, SUFFIXES))).map("".join)
    chosen = draw(st.lists(names, min_size=2, max_size=4, unique=True))
    annotations = st.one_of(boxes(), polygons(), quads(), classes.map(lambda text: Text(label=text)))
    attributes = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2)
    images = []
    for number, name in enumerate(chosen):
        traces = [
            TracedAnnotation(annotation, "step", review=draw(reviews), attributes=draw(attributes))
            # Readers count identical annotations once.
            for annotation in draw(
                st.lists(annotations, max_size=4, unique_by=lambda a: tuple(list_coordinates(a)) or a.label)
            )
        ]
        shapes = draw(
            st.lists(st.one_of(boxes(), polygons()), max_size=2, unique_by=lambda a: tuple(list_coordinates(a)))
        )
        regions = [TracedAnnotation(shape, "phrases", attributes=draw(attributes)) for shape in shapes]
        image = LabeledImage.from_traces(name, WIDTH, HEIGHT, traces, lambda data=FILES[number]: data, sha256="0" * 64)
        images.append(replace(image, regions=tuple(regions)))
    return images


def profile(examples: int, *, is_fixed: bool = True) -> settings:
    phases = set(Phase) - {Phase.explain}  # which traces every line
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=is_fixed,
        suppress_health_check=list(HealthCheck),
        phases=phases,
    )


def expect_labels(name: str, annotations: Sequence[Annotation], report: ExportReport) -> list[Label]:
    """Returns what the files of a format have of the annotations."""
    kept = [annotation for annotation in annotations if annotation.kind not in LOST.get(name, "").split()]
    return [describe(name, annotation, report) for annotation in kept]


def describe(name: str, annotation: Annotation, report: ExportReport) -> Label:
    kind, label, points = annotation.kind, annotation.label, list_coordinates(annotation)
    if isinstance(annotation, Polygon):
        points = [value for ring in to_rings(annotation) for value in ring]
        if name in BOXES_ONLY:
            kind, points = "box", list(bounding_box(annotation))
        elif name == "yolo-segment":
            points = join_rings(to_rings(annotation))
    elif isinstance(annotation, Text) and name == "labelme":
        label = " ".join(label.split())
    if kind in ("box", "polygon"):
        label = report.renamed_classes.get(label, label)
    return kind, label, points


def join_rings(rings: Sequence[list[float]]) -> list[float]:
    first, *others = rings
    joined = list(first)
    for other in others:
        joined += [*first[:2], *other, *other[:2]]
    return joined


def assert_same(found: Sequence[Label], expected: Sequence[Label], tolerance: float) -> None:
    key = lambda label: (label[0], label[1], [round(v) for v in label[2]])  # noqa: E731
    ours, theirs = sorted(expected, key=key), sorted(found, key=key)
    assert [label[:2] for label in theirs] == [label[:2] for label in ours]
    for (*_, one), (*_, other) in zip(ours, theirs, strict=True):
        assert other == pytest.approx(one, abs=tolerance + 1e-3)


def check_by_rule(name: str, images: list[LabeledImage], out: Path) -> None:
    """The tools of the format find each image once, with its own labels and, unless that is reported, its own name."""
    report = FORMATS[name].write(images, out, placement=ImagePlacement.COPY)
    assert report.images == len(images)
    renamed = read_renamed(out)
    assert len(renamed) == report.renamed
    root = out / FORMATS[name].writer.images_folder
    seen = list[int]()
    for path, found in READERS[name](out):
        number = get_number(path)
        seen.append(number)
        image = images[number]
        expected_name = renamed.get(image.name.encode("utf-8", "backslashreplace").decode(), image.name)
        assert path == root / expected_name
        assert_same(found, expect_labels(name, image.annotations, report), TOLERANCE.get(name, 0.0))
    assert sorted(seen) == list(range(len(images)))


def check_by_florist(name: str, images: list[LabeledImage], out: Path) -> None:
    """florist reads the same labels, attributes and regions, wherever they are, and has nothing that it cannot use."""
    report = FORMATS[name].write(images, out, placement=ImagePlacement.COPY, as_folder=True)
    assert report.left_out == {}
    if not any((*image.annotations, *image.regions) for image in images):
        return  # a dataset without labels is refused
    dataset = open_dataset(out)
    reasons = {entry.reason for entry in dataset.unusable}
    assert reasons <= {"it has no labels", "it is a word, its label 'text' is not used"}  # if `text` is a class
    found = {int(image.open().getpixel((0, 0))[0]): image for image in dataset.images}  # type: ignore[index]
    for number, image in enumerate(images):
        if number not in found:
            assert not image.annotations
            assert not image.regions
            continue
        for ours, theirs in (
            (image.traced_annotations, found[number].traced_annotations),
            (image.regions, found[number].regions),
        ):
            expected, read = ([list_facts(trace, report) for trace in traces] for traces in (ours, theirs))
            assert sorted(each[0] for each in read) == sorted(each[0] for each in expected)
            assert_same([each[1] for each in read], [each[1] for each in expected], TOLERANCE.get(name, 0.0))


def list_facts(trace: TracedAnnotation, report: ExportReport) -> tuple[object, Label]:
    """Returns the class and the attributes of an annotation, and its place."""
    annotation = trace.annotation
    label = " ".join(report.renamed_classes.get(annotation.label, annotation.label).split())
    points = [value for ring in rings(annotation) for value in ring]
    return (label, sorted(trace.attributes.items())), (annotation.kind, label, points)


def rings(annotation: Annotation) -> list[list[float]]:
    if isinstance(annotation, Polygon):
        return to_rings(annotation)
    return [list_coordinates(annotation)]


def run(check: Callable[[str, list[LabeledImage], Path], None], name: str, images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(name, images, Path(folder, "out"))


@pytest.mark.parametrize("name", READERS)
@profile(25)
@given(labeled_images(RULE_FOLDERS))
def test_the_tools_of_a_format_find_each_image_with_its_own_labels(name: str, images: list[LabeledImage]) -> None:
    run(check_by_rule, name, images)


@pytest.mark.parametrize("name", FORMATS)
@profile(25)
@given(labeled_images())
def test_florist_reads_the_same_labels(name: str, images: list[LabeledImage]) -> None:
    run(check_by_florist, name, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@profile(300, is_fixed=False)
@given(labeled_images(RULE_FOLDERS))
def test_the_tools_of_a_format_find_their_labels_in_hundreds_of_exports(name: str, images: list[LabeledImage]) -> None:
    run(check_by_rule, name, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@profile(300, is_fixed=False)
@given(labeled_images())
def test_florist_reads_hundreds_of_exports(name: str, images: list[LabeledImage]) -> None:
    run(check_by_florist, name, images)
