"""What of a step's findings is kept."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.annotations import Text
from server.jobs.recipes.filters import filtered
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.overlaps import suppressed
from server.jobs.recipes.recipe import Filter
from tests.server.jobs.recipes.answering import SIZE, box, quad, steady


def finding(label: str, *corners: float, score: float | None = 0.9) -> Finding:
    return Finding(box(label, *corners, score=score))


def kept(found: list[Finding], **given: Any) -> list[int]:
    return [found.index(each) for each in filtered(found, Filter(**given), SIZE)]


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"score": 0.5}, [1, 2, 3]),
        ({"min_side": 0.1}, [0, 2]),
        ({"max_side": 0.5}, [0, 1, 3]),
        ({"min_area": 0.01}, [0, 1, 2]),
        ({"max_area": 0.01}, [0, 1, 3]),
        ({"max_aspect": 2.0}, [0, 2]),
        ({"count": 2}, [1, 2]),
        ({"count": 2, "max_aspect": 2}, [0, 2]),
    ],
)
def test_each_limit(given_: dict[str, float], expected: list[int]) -> None:
    found = [
        finding("a", 0, 0, 100, 50, score=0.4),
        finding("b", 0, 0, 20, 250, score=0.8),
        finding("c", 0, 0, 1000, 500, score=0.9),
        finding("d", 5, 5, 5, 5, score=0.8)
        if given_.get("max_aspect") is None
        else finding("d", 0, 0, 0, 9, score=0.8),
    ]
    assert kept(found, **given_) == expected


def test_nms_is_of_one_label_and_duplicates_are_of_any() -> None:
    found = [
        finding("cat", 0, 0, 100, 100, score=0.6),
        finding("cat", 0, 0, 100, 90, score=0.8),
        finding("dog", 0, 0, 100, 100, score=0.7),
        finding("cat", 200, 0, 300, 100),
    ]
    assert kept(found, nms=0.5) == [1, 2, 3]
    assert kept(found, duplicates=0.5) == [1, 3]
    assert kept(found, duplicates=0.95) == [1, 2, 3]


def test_of_equals_the_first_stays() -> None:
    found = [finding("cat", 0, 0, 9, 9) for _ in range(4)]
    assert kept(found, nms=0.5) == [0]
    assert kept(found, count=2) == [0, 1]


def test_texts_have_a_score_and_no_shape() -> None:
    texts = [Finding(Text(label="a", score=0.2)), Finding(Text(label="b", score=0.8)), Finding(Text(label="c"))]
    assert kept(texts, score=0.5) == [1, 2]
    assert kept(texts, min_side=0.5) == [0, 1, 2]


def test_other_shapes_are_measured_by_their_boxes() -> None:
    found = [Finding(quad("a", 0, 0, 100, 0, 100, 50, 0, 50)), finding("a", 0, 0, 100, 50, score=0.95)]
    assert kept(found, nms=0.99) == [1]


FOUND = st.lists(
    st.builds(
        lambda label, x, y, w, h, score: finding(label, x, y, x + w, y + h, score=score),
        st.sampled_from(["cat", "dog", ""]),
        *[st.integers(0, 20)] * 4,
        st.sampled_from([None, 0.2, 0.5]),
    ),
    max_size=12,
)


@steady
@given(FOUND, st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_suppressing_again_changes_nothing(found: list[Finding], at: float, across: bool) -> None:
    once = suppressed(found, at, across_labels=across)
    assert suppressed(once, at, across_labels=across) == once
    assert not found or once
