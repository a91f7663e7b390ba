"""Matching, IoU and AUROC, compared with values computed by hand and by brute force."""

import itertools
import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.evaluation.matching import MatchCounts, polygon_iou
from finetune.evaluation.reliability import compute_auroc
from labels.geometry import box_iou

quick = settings(derandomize=True, deadline=None, max_examples=200, database=None)
edges = st.integers(0, 12)
boxes = st.tuples(edges, edges, edges, edges).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@dataclass(frozen=True)
class Point:
    position: float
    score: float | None = None


def similarity(a: Point, b: Point) -> float:
    return max(0.0, 1 - abs(a.position - b.position))


def list_pixels(box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
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
    union = list_pixels(a) | list_pixels(b)
    assert box_iou(a, b) == pytest.approx(len(list_pixels(a) & list_pixels(b)) / len(union) if union else 0)


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def test_polygon_iou_of_squares_and_triangles() -> None:
    size = (400, 300)
    one = [square(20, 30, 200)]
    assert polygon_iou(one, one, size) == 1
    assert polygon_iou(one, [square(120, 30, 200)], size) == pytest.approx(1 / 3, abs=0.02)
    assert polygon_iou(one, [[20, 30, 220, 30, 20, 230]], size) == pytest.approx(0.5, abs=0.02)
    assert polygon_iou(one, [square(250, 240, 40)], size) == 0


def test_polygon_iou_uses_all_rings_together() -> None:
    parts = [square(0, 0, 100), square(200, 0, 100)]
    assert polygon_iou(parts, parts[::-1], (400, 300)) == 1
    assert polygon_iou(parts, parts[:1], (400, 300)) == pytest.approx(0.5, abs=0.02)
    assert polygon_iou([*parts, square(0, 0, 100)], parts, (400, 300)) == 1  # a repeated ring changes nothing


def test_polygon_iou_of_empty_polygons() -> None:
    assert polygon_iou([], [], (40, 30)) == 0
    assert polygon_iou([], [square(0, 0, 20)], (40, 30)) == 0


def test_matches_are_counted() -> None:
    counts = MatchCounts()
    counts.add([Point(0), Point(5), Point(9.3)], [Point(0.2), Point(9), Point(20), Point(30)], similarity)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (2, 1, 2)
    assert counts.precision == pytest.approx(2 / 3)
    assert counts.recall == pytest.approx(2 / 4)
    assert counts.f1 == pytest.approx(2 * (2 / 3 * 1 / 2) / (2 / 3 + 1 / 2))
    counts.add([Point(1)], [Point(1)], similarity)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (3, 1, 2)


@pytest.mark.parametrize(("distance", "matches"), [(0.5, 1), (0.51, 0)])
def test_an_iou_of_one_half_is_a_match(distance: float, matches: int) -> None:
    counts = MatchCounts()
    counts.add([Point(0)], [Point(distance)], similarity)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (
        matches,
        1 - matches,
        1 - matches,
    )


def test_a_duplicate_prediction_is_a_false_positive() -> None:
    counts = MatchCounts()
    counts.add([Point(0), Point(0)], [Point(0)], similarity)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (1, 1, 0)


def test_the_highest_score_is_matched_first() -> None:
    unsure, sure = Point(0.0, score=0.2), Point(0.4, score=0.9)
    for predicted in ([unsure, sure], [sure, unsure]):
        counts = MatchCounts()
        counts.add(predicted, [Point(0.3)], similarity)
        assert counts.scores == [(0.9, True), (0.2, False)]


def test_the_most_similar_object_is_matched() -> None:
    counts = MatchCounts()
    counts.add([Point(0.4), Point(0.0)], [Point(0.0), Point(0.4)], similarity)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives) == (2, 0, 0)


def test_no_predictions_and_no_truth() -> None:
    nothing, missed, false = MatchCounts(), MatchCounts(), MatchCounts()
    missed.add([], [Point(0)], similarity)
    false.add([Point(0)], [], similarity)
    assert (nothing.precision, nothing.recall, nothing.f1) == (1, 1, 1)
    assert (missed.precision, missed.recall, missed.f1) == (1, 0, 0)
    assert (false.precision, false.recall, false.f1) == (0, 1, 0)


def count_best_matching(predicted: list[Point], truth: list[Point]) -> int:
    """Returns the largest number of pairs with a similarity of 0.5 or more, by trying all pairings."""
    short, long = sorted((predicted, truth), key=len)
    return max(
        sum(similarity(a, b) >= 0.5 for a, b in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )


points = st.lists(st.builds(Point, st.floats(0, 4).map(lambda v: round(v, 2)), st.floats(0.01, 0.99)), max_size=5)


@quick
@given(predicted=points, truth=points)
def test_the_greedy_matching_is_at_least_half_of_the_best(predicted: list[Point], truth: list[Point]) -> None:
    counts = MatchCounts()
    counts.add(predicted, truth, similarity)
    assert counts.true_positives + counts.false_positives == len(predicted) == len(counts.scores)
    assert counts.true_positives + counts.false_negatives == len(truth)
    best = count_best_matching(predicted, truth)
    assert best / 2 <= counts.true_positives <= best  # any greedy matching is maximal


def test_auroc_of_small_cases() -> None:
    assert compute_auroc([(0.9, True), (0.8, True), (0.1, False)]) == 1
    assert compute_auroc([(0.1, True), (0.9, False)]) == 0
    assert compute_auroc([(0.5, True), (0.5, False)]) == 0.5
    assert compute_auroc([(0.9, True), (0.3, True), (0.5, False), (0.1, False)]) == 0.75


@quick
@given(scores=st.lists(st.tuples(st.integers(0, 5).map(lambda v: v / 5), st.booleans()), max_size=12))
def test_auroc_counts_pairs(scores: list[tuple[float, bool]]) -> None:
    correct, wrong = [s for s, ok in scores if ok], [s for s, ok in scores if not ok]
    pairs = [1.0 if r > w else 0.5 if r == w else 0.0 for r in correct for w in wrong]
    if pairs:
        assert compute_auroc(iter(scores)) == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert math.isnan(compute_auroc(iter(scores)))
