"""Copy-paste: objects have the color of their label. A pasted object must show its color and cover no other."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finetune.datasets.augmentation import AugmentationConfig, augment
from finetune.datasets.copy_paste import ObjectBank
from labels.geometry import bounding_box, bounds, to_points
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS

PASTE = AugmentationConfig(paste=1)
SIZE = (240, 160)
BACKGROUND = (90, 90, 90)
COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
RED, GREEN, BLUE = (
    Box(label="red", box=(20, 30, 90, 80)),
    Box(label="green", box=(120, 50, 200, 140)),
    Box(label="blue", box=(40, 20, 110, 120)),
)
STAR = Polygon(label="red", polygons=[[60, 20, 75, 55, 110, 60, 75, 70, 60, 110, 45, 70, 15, 60, 45, 55]])
NAMING = TASKS["<REGION_TO_CATEGORY>"]
OBJECTS = frozenset({LabelKind.OBJECTS})


def paint(size: tuple[int, int], annotations: Sequence[Annotation]) -> Image.Image:
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    for annotation in annotations:
        color = COLORS.get(annotation.label)
        if color and isinstance(annotation, Box):
            x1, y1, x2, y2 = annotation.box
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), color)
        elif color and isinstance(annotation, Polygon):
            draw.polygon([(x - 0.5, y - 0.5) for x, y in to_points(annotation.polygons[0])], color)
    return image


def make_image(
    *annotations: Annotation, complete: frozenset[LabelKind] = OBJECTS, size: tuple[int, int] = SIZE
) -> LabeledImage:
    return LabeledImage("a.png", "a.png", *size, annotations, partial(paint, size, annotations), complete)


def find_color(image: Image.Image, name: str) -> np.ndarray:
    """Returns the mask [h, w] of the pixels that have nearly this color."""
    return np.abs(np.asarray(image).astype(int) - COLORS[name]).max(axis=-1) < 60


def paste_objects(image: LabeledImage, others: Sequence[LabeledImage], seeds: int = 30) -> list[LabeledImage]:
    objects = ObjectBank(others)
    return [augment(image, PASTE, np.random.default_rng(seed), others, objects) for seed in range(seeds)]


def test_pasted_objects_are_at_their_labels_and_cover_nothing() -> None:
    for changed in paste_objects(make_image(RED), [make_image(GREEN), make_image(BLUE, size=(150, 150))]):
        own, *new = changed.annotations
        assert own == RED
        assert new
        image = changed.open()
        for annotation in new:
            assert isinstance(annotation, Box)
            x1, y1, x2, y2 = map(round, annotation.box)
            assert find_color(image, annotation.label)[y1:y2, x1:x2].mean() > 0.65  # its edges are soft
            rest = find_color(image, annotation.label)
            for other in new:
                if other.label == annotation.label:
                    left, top, right, bottom = map(round, bounding_box(other))
                    rest[top:bottom, left:right] = False
            assert not rest.any()
        assert find_color(image, "red")[30:80, 20:90].mean() > 0.85


def test_an_object_with_an_outline_is_pasted_without_its_background() -> None:
    count = 0
    for changed in paste_objects(make_image(complete=OBJECTS), [make_image(STAR)]):
        image = changed.open()
        for annotation in changed.annotations:
            assert isinstance(annotation, Polygon)
            drawn = paint(changed.size, [annotation])
            x1, y1, x2, y2 = map(round, bounds(annotation.polygons))
            one, other = (find_color(shown, "red")[y1:y2, x1:x2] for shown in (drawn, image))
            assert (one & other).sum() / (one | other).sum() > 0.85
            count += 1
        pixels = np.asarray(image).astype(int)
        assert np.abs(pixels - BACKGROUND).max(axis=-1)[~find_color(image, "red")].max() < 200  # only blended edges
    assert count > 30


def test_each_class_is_pasted_equally_often() -> None:
    others = [*(make_image(RED) for _ in range(20)), make_image(GREEN)]
    counts = Counter(
        annotation.label for changed in paste_objects(make_image(), others, 150) for annotation in changed.annotations
    )
    assert 0.8 < counts["green"] / counts["red"] < 1.25


def test_labels_with_a_position_are_not_pasted_and_flip_controls_mirroring() -> None:
    others = [make_image(RED.model_copy(update={"label": label})) for label in ("the left red", "large red", "red")]
    labels = {annotation.label for changed in paste_objects(make_image(), others) for annotation in changed.annotations}
    assert labels == {"red"}
    half = Image.new("RGB", SIZE, BACKGROUND)
    half.paste(COLORS["red"], (20, 30, 55, 80))  # only the left half of the object
    other = replace(make_image(RED), open=lambda: half)
    for flip, expected in ((0.0, {True}), (0.5, {True, False})):
        objects, left = ObjectBank([other]), set[bool]()
        for seed in range(40):
            changed = augment(
                make_image(), AugmentationConfig(paste=1, flip=flip), np.random.default_rng(seed), [other], objects
            )
            red = find_color(changed.open(), "red")
            for annotation in changed.annotations:
                x1, y1, x2, y2 = map(round, bounding_box(annotation))  # type: ignore[arg-type]
                middle = (x1 + x2) // 2
                left.add(bool(red[y1:y2, x1:middle].sum() > red[y1:y2, middle:x2].sum()))
        assert left == expected


@pytest.mark.parametrize(
    "image",
    [
        make_image(RED, Text(label="A red thing.")),
        replace(make_image(RED), samples=(Sample(NAMING, (Text(label="red"),), region=RED.box),)),
        make_image(complete=frozenset()),
        make_image(STAR),
        make_image(RED, complete=frozenset({LabelKind.OBJECTS, LabelKind.WORDS})),
    ],
    ids=["a caption", "a sample", "unknown content", "outlines", "complete words"],
)  # fmt: skip
def test_nothing_is_pasted_if_labels_would_become_wrong(image: LabeledImage) -> None:
    assert all(changed == image for changed in paste_objects(image, [make_image(GREEN)], 10))


@pytest.mark.parametrize(
    "other",
    [
        make_image(Box(label="green", box=(0, 50, 80, 140))),
        make_image(GREEN, Box(label="blue", box=(150, 100, 230, 155))),
        make_image(GREEN, Quad(label="word", quad=(130, 60, 180, 60, 180, 80, 130, 80))),
        make_image(Box(label="green", box=(120, 50, 123, 140))),
        make_image(),
    ],
    ids=["cut by the border", "overlapped by another", "with a word on it", "too thin", "no object"],
)
def test_only_complete_objects_without_overlap_are_pasted(other: LabeledImage) -> None:
    assert all(
        "green" not in {n.label for n in changed.annotations} for changed in paste_objects(make_image(RED), [other], 10)
    )


def test_the_seed_determines_the_result_and_the_original_is_unchanged() -> None:
    shown = paint(SIZE, [RED])
    before = shown.tobytes()
    image = replace(make_image(RED), open=lambda: shown)
    one, other = (paste_objects(image, [make_image(GREEN)], 3) for _ in range(2))
    assert one == other
    assert one[0].open().tobytes() != before == shown.tobytes()
    sent = paste_objects(make_image(RED), [make_image(GREEN)], 1)[0]
    assert sent.open().tobytes() == pickle.loads(pickle.dumps(sent)).open().tobytes()
