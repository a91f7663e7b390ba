"""Augmentation: images are drawn from their labels and changed; the labels must stay on the colors."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune.datasets.augmentation import AugmentationConfig, augment
from finetune.datasets.copy_paste import ObjectBank
from finetune.datasets.samples import find_trainable_tasks, make_samples
from labels.geometry import bounding_box, to_points
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.tasks import TASKS, InputKind
from tests.finetune.datasets.drawn_images import (
    SIZE,
    TWO,
    check_boxes,
    find_color,
    find_extent,
    make_image,
    make_rngs,
    paint,
)

NONE = AugmentationConfig()
FLIP, CROP, SHRINK = AugmentationConfig(flip=1), AugmentationConfig(crop=1), AugmentationConfig(shrink=1)
ROTATE, MOSAIC, COLOR = (
    AugmentationConfig(rotate=1, max_degrees=15),
    AugmentationConfig(mosaic=1),
    AugmentationConfig(color=1),
)
EVERYTHING = AugmentationConfig(flip=0.5, crop=0.5, shrink=0.3, rotate=0.5, color=0.5, mosaic=0.3, paste=0.5)


@pytest.mark.parametrize("changes", [NONE, FLIP, CROP, SHRINK, replace(CROP, flip=0.5), replace(SHRINK, flip=0.5)])
def test_boxes_stay_on_their_objects(changes: AugmentationConfig) -> None:
    for rng in make_rngs():
        check_boxes(augment(make_image(*TWO), changes, rng))


def test_rotated_boxes_fit_round_objects() -> None:
    for rng in make_rngs():
        changed = augment(make_image(*TWO, form="ellipse"), ROTATE, rng)
        check_boxes(changed, tolerance=2)


@pytest.mark.parametrize("changes", [FLIP, CROP, SHRINK, ROTATE, replace(ROTATE, flip=0.5, crop=0.5, shrink=0.3)])
def test_polygons_stay_on_their_objects(changes: AugmentationConfig) -> None:
    star = Polygon(label="red", polygons=[[60, 20, 75, 55, 110, 60, 80, 85, 90, 120, 60, 100, 30, 120, 40, 85, 10, 60]])
    block = Polygon(label="green", polygons=[[130, 40, 210, 60, 200, 140, 140, 130]])
    for rng in make_rngs():
        changed = augment(make_image(star, block), changes, rng)
        image = changed.open()
        for annotation in changed.annotations:
            assert isinstance(annotation, Polygon)
            drawn = paint(changed.size, ((annotation.label, "polygon", tuple(annotation.polygons[0])),))
            one, other = find_color(drawn, annotation.label), find_color(image, annotation.label)
            assert (one & other).sum() / (one | other).sum() > 0.9


def test_mosaics_label_all_four_images() -> None:
    images = [
        make_image(*TWO, name="a"),
        make_image(Box(label="blue", box=(60, 40, 180, 120)), name="b"),
        make_image(name="c"),
        make_image(Box(label="blue", box=(10, 10, 60, 60)), size=(100, 100), name="d"),
    ]
    seen = set[int]()
    for rng in make_rngs():
        changed = augment(images[0], MOSAIC, rng, images)
        assert changed.size == SIZE
        image = changed.open()
        seen.add(len(changed.annotations))
        for annotation in changed.annotations:
            assert isinstance(annotation, Box)
            x1, y1, x2, y2 = annotation.box
            inner = find_color(image, annotation.label)[round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
            assert inner.mean() > 0.9
            outer = find_color(image, annotation.label)
            # The box is tight: its border has the color.
            assert outer[round((y1 + y2) / 2), min(round(x1) + 1, image.width - 1)]
        reds = find_extent(image, "red")
        if reds is not None and (box := next((n.box for n in changed.annotations if n.label == "red"), None)):
            assert reds == pytest.approx(box, abs=1.5)
    assert len(seen) >= 2


def test_a_mosaic_needs_three_others_with_labels_as_complete() -> None:
    a, b, c = (make_image(*TWO, name=name) for name in "abc")
    d = make_image(*TWO, complete=frozenset(), name="d")
    for rng in make_rngs(5):
        assert augment(a, MOSAIC, rng, [a, b, c]) == a
        assert augment(a, MOSAIC, rng, [a, b, c, d]) == a
        changed = augment(d, MOSAIC, rng, [a, b, c, d])
        assert changed != d
        assert changed.complete == frozenset()


def test_a_strength_of_zero_changes_nothing() -> None:
    original = make_image(*TWO)
    assert augment(original, NONE, np.random.default_rng(0)) is original
    assert AugmentationConfig.from_strength(0) == NONE
    assert AugmentationConfig.from_strength(1, flip=False).flip == 0


def test_colors_change_and_labels_do_not() -> None:
    original = make_image(*TWO)
    changed = augment(original, COLOR, np.random.default_rng(0))
    assert changed.annotations == original.annotations
    assert changed.open().tobytes() != original.open().tobytes()
    check_boxes(changed, tolerance=0)


def test_hues_shift_if_no_label_contains_a_color() -> None:
    plain = replace(COLOR, max_color=0.0)
    drawn = make_image(*TWO)
    unnamed = replace(drawn, annotations=tuple(n.model_copy(update={"label": "thing"}) for n in drawn.annotations))
    shifted = np.asarray(augment(unnamed, replace(plain, max_hue=0.5), np.random.default_rng(1)).open().convert("HSV"))
    before = np.asarray(drawn.open().convert("HSV"))
    painted = before[..., 2] > 0
    shift = (shifted[..., 0].astype(int) - before[..., 0])[painted] % 256
    assert np.ptp(shift) <= 2  # the same shift everywhere
    assert 8 < shift.mean() < 248
    assert np.array_equal(shifted[..., 2], before[..., 2])
    with_color = (
        drawn,
        replace(unnamed, annotations=(*unnamed.annotations, Text(label="A dark-grey thing."))),
        replace(unnamed, samples=(Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (), "the Blue one"),)),
    )
    for image in with_color:
        same = augment(image, replace(plain, max_hue=0.5), np.random.default_rng(1))
        assert same.open().tobytes() == drawn.open().tobytes()


def test_the_seed_determines_the_changes_and_the_result_can_be_pickled() -> None:
    images = [make_image(*TWO, name=name) for name in "abcde"]
    for seed in range(20):
        one, other = (
            augment(images[0], EVERYTHING, np.random.default_rng(seed), images, ObjectBank(images)) for _ in range(2)
        )
        assert one == other
        assert one.open().tobytes() == pickle.loads(pickle.dumps(one)).open().tobytes()


def test_the_image_is_opened_once_and_lazily() -> None:
    calls = []

    def open_image() -> Image.Image:
        calls.append(1)
        return Image.new("RGB", SIZE)

    changed = augment(
        replace(make_image(*TWO), open=open_image), replace(EVERYTHING, mosaic=0), np.random.default_rng(1)
    )
    assert calls == []
    changed.open()
    assert len(calls) == 1


xs, ys = st.integers(0, SIZE[0]).map(float), st.integers(0, SIZE[1]).map(float)


@st.composite
def shapes(draw: st.DrawFn) -> Annotation:
    (x1, x2), (y1, y2) = (sorted(draw(st.lists(axis, min_size=2, max_size=2, unique=True))) for axis in (xs, ys))
    label = draw(st.sampled_from(["red", "green", "a small red thing"]))
    makers: list[Callable[[], Annotation]] = [
        lambda: Box(label=label, box=(x1, y1, x2, y2)),
        lambda: Polygon(label=label, polygons=[[x1, y1, x2, y1, x2, y2]]),
        lambda: Quad(label=label, quad=(x1, y1, x2, y1, x2, y2, x1, y2)),
        lambda: Text(label=label),
    ]
    return draw(st.sampled_from(makers))()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(shapes(), max_size=6), st.integers(0, 10_000))
def test_all_labels_stay_inside_and_have_valid_samples(annotations: list[Annotation], seed: int) -> None:
    original = replace(make_image(), annotations=tuple(annotations))
    region = TASKS["<REGION_TO_CATEGORY>"]
    original = replace(original, samples=(Sample(region, (Text(label="red"),), region=(10, 10, 50, 50)),))
    others = [
        original,
        *(make_image(*TWO, name=name) for name in "bcd"),
    ]
    changed = augment(original, EVERYTHING, np.random.default_rng(seed), others, ObjectBank(others))
    width, height = changed.size
    assert changed.open().size == changed.size
    for annotation in changed.annotations:
        match annotation:
            case Text():
                continue
            case Quad():
                ring = list(annotation.quad)
            case Box():
                ring = list(annotation.box)
            case Polygon():
                ring = [v for part in annotation.polygons for v in part]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in to_points(ring))
        x1, y1, x2, y2 = bounding_box(annotation)
        assert x2 > x1
        assert y2 > y1
    for sample in make_samples(changed, TASKS, classes=("red", "green", "blue"), rng=np.random.default_rng(0)):
        sample.task.build_prompt(sample.text, sample.region, changed.size)
        format_answer(sample.task, sample.answer, changed.size)
        assert (sample.region is not None) == (sample.task.input_kind is InputKind.REGION)
    assert find_trainable_tasks(changed)
