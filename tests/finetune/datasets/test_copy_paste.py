"""Things are drawn in a colour of their name on grey: where one is put, its colour must be, and no other's may go."""

import pickle
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finetune.datasets.augmentation import Augment, augment
from finetune.datasets.copy_paste import Things
from labels.geometry import bounding_box, bounds, to_points
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.tasks import TASKS

PASTE = Augment(paste=1)
SIZE = (240, 160)
GROUND = (90, 90, 90)
COLOURS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
RED, GREEN, BLUE = (
    Box(label="red", box=(20, 30, 90, 80)),
    Box(label="green", box=(120, 50, 200, 140)),
    Box(label="blue", box=(40, 20, 110, 120)),
)
STAR = Polygon(label="red", polygons=[[60, 20, 75, 55, 110, 60, 75, 70, 60, 110, 45, 70, 15, 60, 45, 55]])
NAMING = TASKS["<REGION_TO_CATEGORY>"]
OBJECTS = frozenset({LabelKind.OBJECTS})


def paint(size: tuple[int, int], notes: Sequence[Annotation]) -> Image.Image:
    image = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(image)
    for note in notes:
        colour = COLOURS.get(note.label)
        if colour and isinstance(note, Box):
            x1, y1, x2, y2 = note.box
            draw.rectangle((x1, y1, x2 - 1, y2 - 1), colour)
        elif colour and isinstance(note, Polygon):
            draw.polygon([(x - 0.5, y - 0.5) for x, y in to_points(note.polygons[0])], colour)
    return image


def example(*notes: Annotation, complete: frozenset[LabelKind] = OBJECTS, size: tuple[int, int] = SIZE) -> LabeledImage:
    return LabeledImage("a.png", "a.png", *size, notes, partial(paint, size, notes), complete)


def coloured(image: Image.Image, name: str) -> np.ndarray:
    """Where (h, w) it is nearly of a colour."""
    return np.abs(np.asarray(image).astype(int) - COLOURS[name]).max(axis=-1) < 60


def pasted(given: LabeledImage, others: Sequence[LabeledImage], seeds: int = 30) -> list[LabeledImage]:
    things = Things(others)
    return [augment(given, PASTE, np.random.default_rng(seed), others, things) for seed in range(seeds)]


def test_what_is_put_in_lies_where_its_label_says_and_hides_nothing() -> None:
    for changed in pasted(example(RED), [example(GREEN), example(BLUE, size=(150, 150))]):
        own, *new = changed.annotations
        assert own == RED
        assert new
        image = changed.open()
        for note in new:
            assert isinstance(note, Box)
            x1, y1, x2, y2 = map(round, note.box)
            assert coloured(image, note.label)[y1:y2, x1:x2].mean() > 0.65  # its edges are soft
            rest = coloured(image, note.label)
            for other in new:
                if other.label == note.label:
                    left, top, right, bottom = map(round, bounding_box(other))
                    rest[top:bottom, left:right] = False
            assert not rest.any()
        assert coloured(image, "red")[30:80, 20:90].mean() > 0.85


def test_of_a_thing_with_an_outline_no_ground_comes_along() -> None:
    seen = 0
    for changed in pasted(example(complete=OBJECTS), [example(STAR)]):
        image = changed.open()
        for note in changed.annotations:
            assert isinstance(note, Polygon)
            drawn = paint(changed.size, [note])
            x1, y1, x2, y2 = map(round, bounds(note.polygons))
            one, other = (coloured(each, "red")[y1:y2, x1:x2] for each in (drawn, image))
            assert (one & other).sum() / (one | other).sum() > 0.85
            seen += 1
        pixels = np.asarray(image).astype(int)
        assert np.abs(pixels - GROUND).max(axis=-1)[~coloured(image, "red")].max() < 200  # blends, and nothing else
    assert seen > 30


def test_each_name_comes_as_often_however_rare_it_is() -> None:
    others = [*(example(RED) for _ in range(20)), example(GREEN)]
    counts = Counter(note.label for changed in pasted(example(), others, 150) for note in changed.annotations)
    assert 0.8 < counts["green"] / counts["red"] < 1.25


def test_words_of_a_side_are_never_moved_and_mirrored_only_where_things_may_be() -> None:
    others = [example(RED.model_copy(update={"label": label})) for label in ("the left red", "large red", "red")]
    labels = {note.label for changed in pasted(example(), others) for note in changed.annotations}
    assert labels == {"red"}
    half = Image.new("RGB", SIZE, GROUND)
    half.paste(COLOURS["red"], (20, 30, 55, 80))  # the thing's left half
    other = replace(example(RED), open=lambda: half)
    for flip, expected in ((0.0, {True}), (0.5, {True, False})):
        things, left = Things([other]), set[bool]()
        for seed in range(40):
            changed = augment(example(), Augment(paste=1, flip=flip), np.random.default_rng(seed), [other], things)
            red = coloured(changed.open(), "red")
            for note in changed.annotations:
                x1, y1, x2, y2 = map(round, bounding_box(note))  # type: ignore[arg-type]
                middle = (x1 + x2) // 2
                left.add(bool(red[y1:y2, x1:middle].sum() > red[y1:y2, middle:x2].sum()))
        assert left == expected


@pytest.mark.parametrize(
    "given",
    [
        example(RED, Text(label="A red thing.")),
        replace(example(RED), samples=(Sample(NAMING, (Text(label="red"),), region=RED.box),)),
        example(complete=frozenset()),
        example(STAR),
        example(RED, complete=frozenset({LabelKind.OBJECTS, LabelKind.WORDS})),
    ],
    ids=["a caption", "a question", "nobody knows what it shows", "outlines", "all its words are known"],
)  # fmt: skip
def test_nothing_is_put_where_labels_would_become_untrue(given: LabeledImage) -> None:
    assert all(changed == given for changed in pasted(given, [example(GREEN)], 10))


@pytest.mark.parametrize(
    "other",
    [
        example(Box(label="green", box=(0, 50, 80, 140))),
        example(GREEN, Box(label="blue", box=(150, 100, 230, 155))),
        example(GREEN, Quad(label="word", quad=(130, 60, 180, 60, 180, 80, 130, 80))),
        example(Box(label="green", box=(120, 50, 123, 140))),
        example(),
    ],
    ids=["cut by the border", "another reaches into it", "with a word on it", "too thin", "no thing"],
)
def test_things_that_would_not_come_alone_and_whole_are_left(other: LabeledImage) -> None:
    assert all("green" not in {n.label for n in changed.annotations} for changed in pasted(example(RED), [other], 10))


def test_the_same_chance_puts_the_same_and_what_was_opened_stays_as_it_was() -> None:
    shown = paint(SIZE, [RED])
    before = shown.tobytes()
    given = replace(example(RED), open=lambda: shown)
    one, other = (pasted(given, [example(GREEN)], 3) for _ in range(2))
    assert one == other
    assert one[0].open().tobytes() != before == shown.tobytes()
    sent = pasted(example(RED), [example(GREEN)], 1)[0]
    assert sent.open().tobytes() == pickle.loads(pickle.dumps(sent)).open().tobytes()
