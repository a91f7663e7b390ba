"""Labels in affine views: texts, words and regions that move, change or are dropped."""

from dataclasses import replace

import numpy as np
import pytest

from finetune.datasets.augmentation import AugmentationConfig, augment
from labels.geometry import bounding_box
from labels.label_kind import LabelKind
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS, find_task
from tests.finetune.datasets.drawn_images import BOTH, TWO, make_image, make_rngs

FLIP, CROP, SHRINK = AugmentationConfig(flip=1), AugmentationConfig(crop=1), AugmentationConfig(shrink=1)


def test_left_and_right_are_exchanged_in_texts() -> None:
    vqa = Sample(find_task("<VQA>"), (Text(label="the Left one"),), text="which is on the right?")
    region = Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="left shoe"),), region=(10, 20, 50, 60))
    original = replace(
        make_image(
            Box(label="left shoe", box=(10, 20, 50, 60)),
            Box(label="right shoe", box=(100, 20, 150, 60)),
            Text(label="the leftmost shoe of two, brightly lit"),
        ),
        samples=(vqa, region),
    )
    changed = augment(original, FLIP, np.random.default_rng(0))
    assert changed.annotations == (
        Box(label="right shoe", box=(190, 20, 230, 60)),
        Box(label="left shoe", box=(90, 20, 140, 60)),
        Text(label="the rightmost shoe of two, brightly lit"),
    )
    assert changed.samples == (
        Sample(find_task("<VQA>"), (Text(label="the Right one"),), text="which is on the left?"),
        Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="right shoe"),), region=(190, 20, 230, 60)),
    )


@pytest.mark.parametrize(
    ("annotation", "flipped"),
    [
        (Quad(label="STOP", quad=(1, 1, 50, 1, 50, 20, 1, 20)), False),
        (Box(label="right whale", box=(1, 1, 50, 50)), False),
        (Box(label="cat", box=(1, 1, 50, 50)), True),
        (Box(label="the cat to the right", box=(1, 1, 50, 50)), True),
    ],
)
def test_labels_without_a_mirror_image_prevent_flips(annotation: Annotation, flipped: bool) -> None:
    original = replace(make_image(complete=BOTH), annotations=(annotation,))
    assert (augment(original, FLIP, np.random.default_rng(0)) != original) is flipped


def test_texts_about_the_image_are_dropped_if_they_may_be_wrong() -> None:
    caption = Text(label="a red thing and a green one")
    position = Text(label="a red thing at the top")
    count = Sample(find_task("<VQA>"), (Text(label="2"),), text="how many?")
    original = replace(make_image(*TWO), annotations=(*TWO, caption, position), samples=(count,))
    kept, lost = 0, 0
    for rng in make_rngs(80):
        changed = augment(original, CROP, rng)
        shapes = [annotation for annotation in changed.annotations if isinstance(annotation, Box)]
        whole = sorted(n.box[2] - n.box[0] for n in shapes) == [70, 80] and sorted(
            n.box[3] - n.box[1] for n in shapes
        ) == [50, 90]
        assert (caption in changed.annotations) is whole
        assert (count in changed.samples) is whole
        assert (position in changed.annotations) is (changed == original)  # a crop can show the whole image
        kept, lost = kept + whole, lost + (not whole)
    assert kept > 3
    assert lost > 3
    assert position in augment(original, FLIP, np.random.default_rng(0)).annotations


def test_an_image_with_only_texts_is_not_cropped() -> None:
    original = make_image(Text(label="a cat"), complete=frozenset())
    assert all(augment(original, CROP, rng) == original for rng in make_rngs(10))


def test_a_cut_word_makes_the_words_incomplete() -> None:
    quad = Quad(label="STOP", quad=(100, 60, 160, 60, 160, 90, 100, 90))
    original = make_image(quad, *TWO)
    outcomes = set[tuple[int, bool]]()
    for rng in make_rngs(200):
        changed = augment(original, replace(CROP, min_scale=0.3), rng)
        left = [annotation for annotation in changed.annotations if isinstance(annotation, Quad)]
        outcomes.add((len(left), LabelKind.WORDS in changed.complete))
        assert LabelKind.OBJECTS in changed.complete
    assert outcomes == {(1, True), (0, False), (0, True)}


def test_regions_of_samples_move_with_the_image() -> None:
    region = Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="red"),), region=TWO[0].box)
    mask = Sample(TASKS["<REGION_TO_SEGMENTATION>"], (Polygon(polygons=[[20, 30, 90, 30, 90, 80]]),), region=TWO[0].box)
    original = replace(make_image(*TWO), samples=(region, mask))
    for changes in (FLIP, CROP, SHRINK):
        for rng in make_rngs(20):
            changed = augment(original, changes, rng)
            for sample in changed.samples:
                (red,) = [annotation for annotation in changed.annotations if annotation.label == "red"]
                assert isinstance(red, Box)
                assert sample.region == pytest.approx(red.box)
                if isinstance(sample.answer[0], Polygon):
                    assert bounding_box(sample.answer[0]) == pytest.approx(red.box)
