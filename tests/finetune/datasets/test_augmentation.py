"""Pictures are drawn by their labels, changed, and looked at: the labels must lie on the colours."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from finetune.datasets.augmentation import Augment, augment
from finetune.datasets.copy_paste import Things
from finetune.datasets.samples import questions, teachable
from labels.geometry import bounding_box, to_points
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.tasks import TASKS, InputKind, find_task

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}
NONE = Augment()
FLIP, CROP, PLACE = Augment(flip=1), Augment(crop=1), Augment(place=1)
ROTATE, MOSAIC, COLOUR = Augment(rotate=1, degrees=15), Augment(mosaic=1), Augment(colour=1)
EVERYTHING = Augment(flip=0.5, crop=0.5, place=0.3, rotate=0.5, colour=0.5, mosaic=0.3, paste=0.5)
BOTH = frozenset((LabelKind.OBJECTS, LabelKind.WORDS))
SIZE = (240, 160)


def paint(size: tuple[int, int], shapes: tuple[tuple[str, str, tuple[float, ...]], ...]) -> Image.Image:
    """(colour, form, coordinates) on black."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    for colour, form, place in shapes:
        x1, y1, *rest = place
        if form == "polygon":
            draw.polygon([(x - 0.5, y - 0.5) for x, y in to_points(place)], COLOURS[colour])
        else:
            (draw.ellipse if form == "ellipse" else draw.rectangle)((x1, y1, rest[0] - 1, rest[1] - 1), COLOURS[colour])
    return image


def example(
    *notes: Annotation, form: str = "rectangle", size: tuple[int, int] = SIZE,
    complete: frozenset[LabelKind] = BOTH, name: str = "a.png",
) -> LabeledImage:  # fmt: skip
    shapes = tuple(
        (note.label, "polygon", tuple(note.polygons[0])) if isinstance(note, Polygon) else (note.label, form, note.box)
        for note in notes
        if isinstance(note, Box | Polygon)
    )
    return LabeledImage(name, name, *size, notes, partial(paint, size, shapes), complete)


def chances(count: int = 40) -> Iterator[np.random.Generator]:
    return (np.random.default_rng(seed) for seed in range(count))


def coloured(image: Image.Image, colour: str) -> np.ndarray:
    """Where (h, w) it is nearer to the colour than to black or to another."""
    pixels = np.asarray(image).astype(int)
    channel = list(COLOURS).index(colour)
    return (pixels[..., channel] > 125) & (np.delete(pixels, channel, axis=-1).max(axis=-1) < 125)


def extent(image: Image.Image, colour: str) -> tuple[int, int, int, int] | None:
    found = coloured(image, colour)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


TWO = (Box(label="red", box=(20, 30, 90, 80)), Box(label="green", box=(120, 50, 200, 140)))


def check(changed: LabeledImage, tolerance: float = 1.5, colours: tuple[str, ...] = ("red", "green")) -> None:
    image = changed.open()
    assert image.size == changed.size
    labels = {note.label: bounding_box(note) for note in changed.annotations if isinstance(note, Box | Polygon)}
    for colour in colours:
        seen = extent(image, colour)
        if colour in labels:
            assert seen == pytest.approx(labels[colour], abs=tolerance), colour
        elif seen is not None:
            # Little is left of it.
            assert coloured(image, colour).sum() < 0.3 * 80 * 90


@pytest.mark.parametrize("changes", [NONE, FLIP, CROP, PLACE, replace(CROP, flip=0.5), replace(PLACE, flip=0.5)])
def test_boxes_stay_on_what_they_label(changes: Augment) -> None:
    for rng in chances():
        check(augment(example(*TWO), changes, rng))


def test_turned_boxes_fit_what_is_round() -> None:
    for rng in chances():
        changed = augment(example(*TWO, form="ellipse"), ROTATE, rng)
        check(changed, tolerance=2)


@pytest.mark.parametrize("changes", [FLIP, CROP, PLACE, ROTATE, replace(ROTATE, flip=0.5, crop=0.5, place=0.3)])
def test_polygons_stay_on_what_they_outline(changes: Augment) -> None:
    star = Polygon(label="red", polygons=[[60, 20, 75, 55, 110, 60, 80, 85, 90, 120, 60, 100, 30, 120, 40, 85, 10, 60]])
    block = Polygon(label="green", polygons=[[130, 40, 210, 60, 200, 140, 140, 130]])
    for rng in chances():
        changed = augment(example(star, block), changes, rng)
        image = changed.open()
        for note in changed.annotations:
            assert isinstance(note, Polygon)
            drawn = paint(changed.size, ((note.label, "polygon", tuple(note.polygons[0])),))
            one, other = coloured(drawn, note.label), coloured(image, note.label)
            assert (one & other).sum() / (one | other).sum() > 0.9


def test_mosaics_label_all_four() -> None:
    pictures = [
        example(*TWO, name="a"),
        example(Box(label="blue", box=(60, 40, 180, 120)), name="b"),
        example(name="c"),
        example(Box(label="blue", box=(10, 10, 60, 60)), size=(100, 100), name="d"),
    ]
    seen = set[int]()
    for rng in chances():
        changed = augment(pictures[0], MOSAIC, rng, pictures)
        assert changed.size == SIZE
        image = changed.open()
        seen.add(len(changed.annotations))
        for note in changed.annotations:
            assert isinstance(note, Box)
            x1, y1, x2, y2 = note.box
            inner = coloured(image, note.label)[round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
            assert inner.mean() > 0.9
            outer = coloured(image, note.label)
            # The box is tight: its own border row has the colour, and the row beyond has not.
            assert outer[round((y1 + y2) / 2), min(round(x1) + 1, image.width - 1)]
        reds = extent(image, "red")
        if reds is not None and (box := next((n.box for n in changed.annotations if n.label == "red"), None)):
            assert reds == pytest.approx(box, abs=1.5)
    assert len(seen) >= 2


def test_a_mosaic_needs_three_others_of_which_as_much_is_known() -> None:
    a, b, c = (example(*TWO, name=name) for name in "abc")
    d = example(*TWO, complete=frozenset(), name="d")
    for rng in chances(5):
        assert augment(a, MOSAIC, rng, [a, b, c]) == a
        assert augment(a, MOSAIC, rng, [a, b, c, d]) == a
        changed = augment(d, MOSAIC, rng, [a, b, c, d])
        assert changed != d
        assert changed.complete == frozenset()


def test_nothing_changes_where_nothing_shall() -> None:
    given = example(*TWO)
    assert augment(given, NONE, np.random.default_rng(0)) is given
    assert Augment.of(0) == NONE
    assert Augment.of(1, flip=False).flip == 0


def test_colours_change_and_labels_do_not() -> None:
    given = example(*TWO)
    changed = augment(given, COLOUR, np.random.default_rng(0))
    assert changed.annotations == given.annotations
    assert changed.open().tobytes() != given.open().tobytes()
    check(changed, tolerance=0)


def test_hues_turn_where_no_label_names_a_colour() -> None:
    plain = replace(COLOUR, colours=0.0)
    drawn = example(*TWO)
    unnamed = replace(drawn, annotations=tuple(n.model_copy(update={"label": "thing"}) for n in drawn.annotations))
    turned = np.asarray(augment(unnamed, replace(plain, hue=0.5), np.random.default_rng(1)).open().convert("HSV"))
    before = np.asarray(drawn.open().convert("HSV"))
    painted = before[..., 2] > 0
    by = (turned[..., 0].astype(int) - before[..., 0])[painted] % 256
    assert np.ptp(by) <= 2  # all by as much
    assert 8 < by.mean() < 248
    assert np.array_equal(turned[..., 2], before[..., 2])
    spoken = (
        drawn,
        replace(unnamed, annotations=(*unnamed.annotations, Text(label="A dark-grey thing."))),
        replace(unnamed, samples=(Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (), "the Blue one"),)),
    )
    for said in spoken:
        same = augment(said, replace(plain, hue=0.5), np.random.default_rng(1))
        assert same.open().tobytes() == drawn.open().tobytes()


def test_the_same_chance_changes_the_same_and_can_be_sent_to_another_process() -> None:
    pictures = [example(*TWO, name=name) for name in "abcde"]
    for seed in range(20):
        one, other = (
            augment(pictures[0], EVERYTHING, np.random.default_rng(seed), pictures, Things(pictures)) for _ in range(2)
        )
        assert one == other
        assert one.open().tobytes() == pickle.loads(pickle.dumps(one)).open().tobytes()


def test_the_picture_is_opened_once_and_late() -> None:
    opened = []

    def open_() -> Image.Image:
        opened.append(1)
        return Image.new("RGB", SIZE)

    changed = augment(replace(example(*TWO), open=open_), replace(EVERYTHING, mosaic=0), np.random.default_rng(1))
    assert opened == []
    changed.open()
    assert len(opened) == 1


def test_left_and_right_are_exchanged_in_words() -> None:
    vqa = Sample(find_task("<VQA>"), (Text(label="the Left one"),), text="which is on the right?")
    region = Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="left shoe"),), region=(10, 20, 50, 60))
    given = replace(
        example(
            Box(label="left shoe", box=(10, 20, 50, 60)),
            Box(label="right shoe", box=(100, 20, 150, 60)),
            Text(label="the leftmost shoe of two, brightly lit"),
        ),
        samples=(vqa, region),
    )
    changed = augment(given, FLIP, np.random.default_rng(0))
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
    ("note", "flipped"),
    [
        (Quad(label="STOP", quad=(1, 1, 50, 1, 50, 20, 1, 20)), False),
        (Box(label="right whale", box=(1, 1, 50, 50)), False),
        (Box(label="cat", box=(1, 1, 50, 50)), True),
        (Box(label="the cat to the right", box=(1, 1, 50, 50)), True),
    ],
)
def test_what_has_no_mirror_image_is_not_flipped(note: Annotation, flipped: bool) -> None:
    given = replace(example(complete=BOTH), annotations=(note,))
    assert (augment(given, FLIP, np.random.default_rng(0)) != given) is flipped


def test_what_is_said_of_all_of_a_picture_goes_when_it_may_no_longer_be_true() -> None:
    said = Text(label="a red thing and a green one")
    placed = Text(label="a red thing at the top")
    count = Sample(find_task("<VQA>"), (Text(label="2"),), text="how many?")
    given = replace(example(*TWO), annotations=(*TWO, said, placed), samples=(count,))
    kept, lost = 0, 0
    for rng in chances(80):
        changed = augment(given, CROP, rng)
        shapes = [note for note in changed.annotations if isinstance(note, Box)]
        whole = sorted(n.box[2] - n.box[0] for n in shapes) == [70, 80] and sorted(
            n.box[3] - n.box[1] for n in shapes
        ) == [50, 90]
        assert (said in changed.annotations) is whole
        assert (count in changed.samples) is whole
        assert (placed in changed.annotations) is (changed == given)  # a crop may happen to take all
        kept, lost = kept + whole, lost + (not whole)
    assert kept > 3
    assert lost > 3
    assert placed in augment(given, FLIP, np.random.default_rng(0)).annotations


def test_a_picture_with_nothing_but_texts_is_not_cropped() -> None:
    given = example(Text(label="a cat"), complete=frozenset())
    assert all(augment(given, CROP, rng) == given for rng in chances(10))


def test_words_that_are_cut_are_no_longer_all_known() -> None:
    quad = Quad(label="STOP", quad=(100, 60, 160, 60, 160, 90, 100, 90))
    given = example(quad, *TWO)
    seen = set[tuple[int, bool]]()
    for rng in chances(200):
        changed = augment(given, replace(CROP, least=0.3), rng)
        left = [note for note in changed.annotations if isinstance(note, Quad)]
        seen.add((len(left), LabelKind.WORDS in changed.complete))
        assert LabelKind.OBJECTS in changed.complete
    assert seen == {(1, True), (0, False), (0, True)}


def test_regions_that_are_asked_about_move_along() -> None:
    region = Sample(TASKS["<REGION_TO_CATEGORY>"], (Text(label="red"),), region=TWO[0].box)
    mask = Sample(TASKS["<REGION_TO_SEGMENTATION>"], (Polygon(polygons=[[20, 30, 90, 30, 90, 80]]),), region=TWO[0].box)
    given = replace(example(*TWO), samples=(region, mask))
    for changes in (FLIP, CROP, PLACE):
        for rng in chances(20):
            changed = augment(given, changes, rng)
            for question in changed.samples:
                (red,) = [note for note in changed.annotations if note.label == "red"]
                assert isinstance(red, Box)
                assert question.region == pytest.approx(red.box)
                if isinstance(question.answer[0], Polygon):
                    assert bounding_box(question.answer[0]) == pytest.approx(red.box)


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
def test_nothing_leaves_the_picture_and_all_that_is_left_can_be_taught(notes: list[Annotation], seed: int) -> None:
    given = replace(example(), annotations=tuple(notes))
    region = TASKS["<REGION_TO_CATEGORY>"]
    given = replace(given, samples=(Sample(region, (Text(label="red"),), region=(10, 10, 50, 50)),))
    others = [
        given,
        *(example(*TWO, name=name) for name in "bcd"),
    ]
    changed = augment(given, EVERYTHING, np.random.default_rng(seed), others, Things(others))
    width, height = changed.size
    assert changed.open().size == changed.size
    for note in changed.annotations:
        match note:
            case Text():
                continue
            case Quad():
                ring = list(note.quad)
            case Box():
                ring = list(note.box)
            case Polygon():
                ring = [v for part in note.polygons for v in part]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in to_points(ring))
        x1, y1, x2, y2 = bounding_box(note)
        assert x2 > x1
        assert y2 > y1
    for question in questions(changed, TASKS, labels=("red", "green", "blue"), rng=np.random.default_rng(0)):
        question.task.build_prompt(question.text, question.region, changed.size)
        format_answer(question.task, question.answer, changed.size)
        assert (question.region is not None) == (question.task.input_kind is InputKind.REGION)
    assert teachable(changed)
