import gc
import io
import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.datasets.samples import make_samples
from labels import formats
from labels.dataset import Dataset, DatasetError
from labels.geometry import bounding_box
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.verification import keep_readable
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.labeled_images import to_labeled_image
from tests.labels.samples import list_coordinates, make_example_images

Save = Callable[..., Path]
WIDTH, HEIGHT = 640, 480
RINGS = [[100.0, 100.0, 200.0, 100.0, 200.0, 200.0], [300.0, 100.0, 400.0, 100.0, 400.0, 150.0, 300.0, 150.0]]
ANNOTATIONS: list[Annotation] = [
    Box(label="cat", score=0.5, box=(10, 20, 110, 220)),
    Polygon(label="fire hydrant", polygons=RINGS),
    Box(label="Hündin <&> 犬", box=(0, 0, 640, 480)),
    Quad(label="STOP now", score=0.25, quad=(40, 10, 80, 20, 78, 40, 38, 30)),
    Text(label="a cat & a dog", score=0.9),
]


def make_png(color: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (color, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def export(name: str, images: list[LabeledImage], folder: Path) -> Path:
    form = formats.FORMATS[name]
    out = folder / f"out{form.suffix or ''}"
    form.write(images, out, ImagePlacement.COPY if form.suffix is None else ImagePlacement.NONE)
    for image in images if form.suffix else ():
        path = folder / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read())
    return out


def make_image(*annotations: Annotation, name: str = "a/1.png", color: int = 0) -> LabeledImage:
    return LabeledImage.from_traces(
        name,
        WIDTH,
        HEIGHT,
        tuple(TracedAnnotation(annotation, "step") for annotation in annotations),
        lambda: make_png(color),
        sha256="0" * 64,
    )


def remove_score(annotation: Annotation) -> Annotation:
    return annotation.model_copy(update={"score": None})


def assert_same(found: tuple[Annotation, ...], true: list[Annotation], tolerance: float) -> None:
    """Compares in any order, since some formats store words and captions separately."""

    def to_key(annotation: Annotation) -> tuple[object, ...]:
        return annotation.kind, annotation.label, [round(v) for v in list_coordinates(annotation)][:4]

    assert [(n.kind, n.label) for n in sorted(found, key=to_key)] == [
        (n.kind, n.label) for n in sorted(true, key=to_key)
    ]
    for one, other in zip(sorted(found, key=to_key), sorted(true, key=to_key), strict=True):
        assert list_coordinates(one) == pytest.approx(list_coordinates(other), abs=tolerance)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_export_is_read_back(name: str, tmp_path: Path) -> None:
    images = [
        make_image(*ANNOTATIONS),
        make_image(name="b.png", color=1),
        make_image(ANNOTATIONS[0], name="a/b 2.png", color=2),
    ]
    dataset = open_dataset(export(name, images, tmp_path))
    true = [[remove_score(annotation) for annotation in image.annotations] for image in images]
    # VOC has whole pixels.
    tolerance = 1 if name == "voc" else 0.01
    found = {example.open().getpixel((0, 0)): example for example in dataset.images}
    assert len(found) == len(dataset.images)
    for color, annotations in enumerate(true):
        example = found.pop((color, 0, 0))
        assert example.size == (WIDTH, HEIGHT)
        assert_same(example.annotations, annotations, tolerance)
        assert example.complete == find_kinds(dataset)
    assert dataset.unusable == ()
    assert keep_readable(dataset) == dataset


def find_kinds(dataset: Dataset) -> set[str]:
    kinds = {annotation.kind for example in dataset.images for annotation in example.annotations}
    return ({"objects"} if kinds & {"box", "polygon"} else set()) | ({"words"} if "quad" in kinds else set())


letters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs", "Co", "Cn"], exclude_characters="/<>:#&")
labels = st.text(letters, min_size=1, max_size=12).map(str.strip).filter(lambda label: label and label != "text")
xs = st.integers(0, WIDTH).map(float)
ys = st.integers(0, HEIGHT).map(float)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(v, min_size=2, max_size=2, unique=True))) for v in (xs, ys))
    return Box(label=draw(labels), box=(x1, y1, x2, y2))


@st.composite
def polygons(draw: st.DrawFn) -> Polygon:
    rings = []
    for k in range(draw(st.integers(1, 3))):
        count = draw(st.integers(3, 7))
        x, y, radius = 100 + 200 * k, draw(st.integers(100, 300)), draw(st.integers(20, 90))
        turns = [2 * math.pi * i / count for i in range(count)]
        rings.append([round(v, 2) for a in turns for v in (x + radius * math.cos(a), y + radius * math.sin(a))])
    return Polygon(label=draw(labels), polygons=rings)


@st.composite
def quads(draw: st.DrawFn) -> Quad:
    x1, y1, x2, y2 = draw(boxes()).box
    return Quad(label=draw(labels), quad=(x1, y1, x2, y1, x2, y2, x1, y2))


@pytest.mark.parametrize("name", formats.FORMATS)
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(annotations=st.lists(st.one_of(boxes(), polygons(), quads()), min_size=1, max_size=5))
def test_any_labels_are_read_back(
    name: str, annotations: list[Annotation], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = export(name, [make_image(*annotations)], tmp_path_factory.mktemp("any"))
    dataset = open_dataset(path)
    assert dataset.unusable == ()
    assert_same(dataset.images[0].annotations, annotations, 1 if name == "voc" else 0.01)


def test_an_unknown_source_is_refused_with_the_list_of_formats(save: Save, tmp_path: Path) -> None:
    paths = [save("image.png"), save("notes.txt", "hello"), save("other.json", {"a": 1}), save("a/b.xml", "<root/>")]
    (tmp_path / "empty").mkdir()
    for path in (*paths, tmp_path / "empty", tmp_path / "a"):
        with pytest.raises(DatasetError) as error:
            open_dataset(path)
        assert all(row.recognized_by in str(error.value) for row in formats.FORMATS.values()), path
    with pytest.raises(DatasetError, match="no such file"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(DatasetError):
        open_dataset("\0")
    assert gc.isenabled()  # it is paused meanwhile


def test_a_truncated_image_is_found_when_it_is_decoded(save: Save, tmp_path: Path) -> None:
    whole = Image.effect_noise((100, 80), 90).convert("RGB")
    whole.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    save("b.jpg", data[: len(data) // 2])
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [1, 1, 9, 9]} for n in (1, 2)]
    images = [{"id": n, "file_name": name} for n, name in ((1, "a.jpg"), (2, "b.jpg"))]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    dataset = open_dataset(save("labels.json", document))
    assert len(dataset.images) == 2
    checked = keep_readable(dataset)
    assert [each.name for each in checked.images] == ["a.jpg"]
    assert "cut short" in str(checked.unusable[0])


VALUES = ["null", "NaN", "1e400", "-1", '""', "[]", "{}", '"x"', "<", ">", "}", "0", "\u0000", "cat<loc_1>", "9" * 30]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_broken_files_raise_only_dataset_errors(name: str, tmp_path: Path) -> None:
    """Parts of the files are removed, doubled or replaced."""
    path = export(name, [make_image(*ANNOTATIONS), make_image(ANNOTATIONS[0], name="b.png", color=1)], tmp_path)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".png")
    chance = random.Random(0)
    outcomes = set[type]()
    for _ in range(20):
        file = chance.choice(files)
        whole = file.read_bytes()
        text = whole.decode()
        pieces = re.split(r"(-?[0-9.]+|\w+|\s+)", text)
        at = chance.randrange(len(pieces))
        match chance.randrange(4):
            case 0:
                pieces[at] = chance.choice(VALUES)
            case 1:
                del pieces[at : at + chance.randrange(1, 8)]
            case 2:
                pieces[at:at] = pieces[at : at + chance.randrange(1, 8)]
            case 3:
                pieces = pieces[: at + 1]
        file.write_bytes("".join(pieces).encode())
        try:
            dataset = open_dataset(path)
            outcomes.add(Dataset)
            for example in dataset.images:
                for annotation in example.annotations:
                    assert all(map(math.isfinite, list_coordinates(annotation)))
                for sample in make_samples(example, TASKS, classes=dataset.classes, rng=np.random.default_rng(0)):
                    format_answer(sample.task, sample.answer, example.size)
        except DatasetError:
            outcomes.add(DatasetError)

        file.write_bytes(whole)
    assert Dataset in outcomes


def test_drawn_scenes_are_written_and_read_back(tmp_path: Path) -> None:
    counts = [((0, 0), (0, 0)), ((0, 0), (1, 2)), ((1, 4), (0, 0)), *[((1, 4), (0, 2))] * 3]
    scenes = [draw_scene(seed, objects=counts[seed % 6][0], words=counts[seed % 6][1]) for seed in range(12)]
    given = [to_labeled_image(scene, str(number), polygons=number % 2 == 0) for number, scene in enumerate(scenes)]
    formats.FORMATS["coco"].write(given, tmp_path / "demo", placement=ImagePlacement.COPY)
    dataset = open_dataset(tmp_path / "demo")
    assert dataset.unusable == ()
    for back, true in zip(dataset.images, given, strict=True):
        assert back.size == true.size
        assert back.complete == true.complete
        assert back.open().tobytes() == true.open().tobytes()
        assert [(each.kind, each.label) for each in back.annotations] == [
            (each.kind, each.label) for each in true.annotations
        ]
        for one, other in zip(back.annotations, true.annotations, strict=True):
            assert not isinstance(one, Text)
            assert not isinstance(other, Text)
            assert bounding_box(one) == pytest.approx(bounding_box(other))


def test_a_folder_with_two_formats_names_the_one_that_is_not_read(tmp_path: Path) -> None:
    images = make_example_images()
    for name in ("coco", "cvat", "voc", "huggingface"):
        formats.FORMATS[name].write(images, tmp_path / "set" / name, ImagePlacement.COPY)
    dataset = open_dataset(tmp_path / "set")
    others = [entry for entry in dataset.unusable if "which is not read" in entry.reason]
    assert dataset.format == "CVAT for images 1.1"
    assert {entry.reason.partition(",")[0] for entry in others} == {
        f"it is also a dataset in the format {name}" for name in ("COCO", "Pascal VOC", "Hugging Face datasets")
    }
    for name in formats.FORMATS:  # but each alone is one dataset
        formats.FORMATS[name].write(images, tmp_path / "alone" / name, ImagePlacement.COPY, as_folder=True)
        alone = open_dataset(tmp_path / "alone" / name)
        assert not [entry for entry in alone.unusable if "which is not read" in entry.reason]
