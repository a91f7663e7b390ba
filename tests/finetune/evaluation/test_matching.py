"""Figures against hand-computed cases and against brute force."""

import itertools
import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.evaluation.matching import Counts, box_iou, polygon_iou
from finetune.evaluation.reliability import auroc

quick = settings(derandomize=True, deadline=None, max_examples=200, database=None)
edges = st.integers(0, 12)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@dataclass(frozen=True)
class Found:
    place: float
    score: float | None = None


def near(a: Found, b: Found) -> float:
    return max(0.0, 1 - abs(a.place - b.place))


def pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 4, 4), (1, 1, 3, 3), 0.25),
        ((0, 0, 4, 4), (4, 0, 8, 4), 0.0),
        ((0, 0, 4, 4), (9, 9, 12, 12), 0.0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),
    ],
)
def test_box_iou(a: tuple[int, ...], b: tuple[int, ...], iou: float) -> None:
    assert box_iou(a, b) == box_iou(b, a) == pytest.approx(iou)


@quick
@given(a=boxes, b=boxes)
def test_box_iou_counts_pixels(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> None:
    union = pixels(a) | pixels(b)
    assert box_iou(a, b) == pytest.approx(len(pixels(a) & pixels(b)) / len(union) if union else 0)


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def test_polygon_iou_of_squares_and_triangles() -> None:
    size = (400, 300)
    one = [square(20, 30, 200)]
    assert polygon_iou(one, one, size) == 1
    assert polygon_iou(one, [square(120, 30, 200)], size) == pytest.approx(1 / 3, abs=0.02)
    assert polygon_iou(one, [[20, 30, 220, 30, 20, 230]], size) == pytest.approx(0.5, abs=0.02)
    assert polygon_iou(one, [square(250, 240, 40)], size) == 0


def test_polygon_iou_takes_all_rings_together() -> None:
    parts = [square(0, 0, 100), square(200, 0, 100)]
    assert polygon_iou(parts, parts[::-1], (400, 300)) == 1
    assert polygon_iou(parts, parts[:1], (400, 300)) == pytest.approx(0.5, abs=0.02)
    assert polygon_iou([*parts, square(0, 0, 100)], parts, (400, 300)) == 1  # a ring twice is there once


def test_polygon_iou_of_nothing() -> None:
    assert polygon_iou([], [], (40, 30)) == 0
    assert polygon_iou([], [square(0, 0, 20)], (40, 30)) == 0


def test_counts_by_hand() -> None:
    counts = Counts()
    counts.add([Found(0), Found(5), Found(9.3)], [Found(0.2), Found(9), Found(20), Found(30)], near)
    assert (counts.right, counts.made_up, counts.missed) == (2, 1, 2)
    assert counts.precision == pytest.approx(2 / 3)
    assert counts.recall == pytest.approx(2 / 4)
    assert counts.f1 == pytest.approx(2 * (2 / 3 * 1 / 2) / (2 / 3 + 1 / 2))
    counts.add([Found(1)], [Found(1)], near)
    assert (counts.right, counts.made_up, counts.missed) == (3, 1, 2)


@pytest.mark.parametrize(("apart", "right"), [(0.5, 1), (0.51, 0)])
def test_half_alike_is_right(apart: float, right: int) -> None:
    counts = Counts()
    counts.add([Found(0)], [Found(apart)], near)
    assert (counts.right, counts.made_up, counts.missed) == (right, 1 - right, 1 - right)


def test_a_thing_found_twice_is_made_up_once() -> None:
    counts = Counts()
    counts.add([Found(0), Found(0)], [Found(0)], near)
    assert (counts.right, counts.made_up, counts.missed) == (1, 1, 0)


def test_the_surest_chooses_first_whatever_the_order() -> None:
    unsure, sure = Found(0.0, score=0.2), Found(0.4, score=0.9)
    for found in ([unsure, sure], [sure, unsure]):
        counts = Counts()
        counts.add(found, [Found(0.3)], near)
        assert counts.scores == [(0.9, True), (0.2, False)]


def test_the_most_alike_is_taken_and_the_other_stays_free() -> None:
    counts = Counts()
    counts.add([Found(0.4), Found(0.0)], [Found(0.0), Found(0.4)], near)
    assert (counts.right, counts.made_up, counts.missed) == (2, 0, 0)


def test_nothing_found_and_nothing_there() -> None:
    nothing, missed, made_up = Counts(), Counts(), Counts()
    missed.add([], [Found(0)], near)
    made_up.add([Found(0)], [], near)
    assert (nothing.precision, nothing.recall, nothing.f1) == (1, 1, 1)
    assert (missed.precision, missed.recall, missed.f1) == (1, 0, 0)
    assert (made_up.precision, made_up.recall, made_up.f1) == (0, 1, 0)


def best_matching(found: list[Found], true: list[Found]) -> int:
    """The most pairs that are at least half alike, by trying them all."""
    short, long = sorted((found, true), key=len)
    return max(
        sum(near(a, b) >= 0.5 for a, b in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )


places = st.lists(st.builds(Found, st.floats(0, 4).map(lambda v: round(v, 2)), st.floats(0.01, 0.99)), max_size=5)


@quick
@given(found=places, true=places)
def test_counts_add_up_and_are_half_the_best_matching_at_least(found: list[Found], true: list[Found]) -> None:
    counts = Counts()
    counts.add(found, true, near)
    assert counts.right + counts.made_up == len(found) == len(counts.scores)
    assert counts.right + counts.missed == len(true)
    best = best_matching(found, true)
    assert best / 2 <= counts.right <= best  # any greedy matching is maximal


def test_auroc_by_hand() -> None:
    assert auroc([(0.9, True), (0.8, True), (0.1, False)]) == 1
    assert auroc([(0.1, True), (0.9, False)]) == 0
    assert auroc([(0.5, True), (0.5, False)]) == 0.5
    assert auroc([(0.9, True), (0.3, True), (0.5, False), (0.1, False)]) == 0.75


@quick
@given(scores=st.lists(st.tuples(st.integers(0, 5).map(lambda v: v / 5), st.booleans()), max_size=12))
def test_auroc_counts_pairs(scores: list[tuple[float, bool]]) -> None:
    right, wrong = [s for s, ok in scores if ok], [s for s, ok in scores if not ok]
    pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r in right for w in wrong]
    if pairs:
        assert auroc(iter(scores)) == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(auroc(iter(scores)))
