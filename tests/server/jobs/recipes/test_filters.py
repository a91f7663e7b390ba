"""The filter of a step."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts.annotations import Text
from server.jobs.recipes.filters import filter_findings
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.overlaps import suppress_overlaps
from server.jobs.recipes.recipe import AnnotationFilter
from tests.server.jobs.recipes.scripted_answers import SIZE, deterministic, make_box, make_quad


def make_finding(label: str, *corners: float, score: float | None = 0.9) -> Finding:
    return Finding(make_box(label, *corners, score=score))


def filter_indexes(findings: list[Finding], **limits: Any) -> list[int]:
    """Returns the indexes of the findings that pass."""
    return [findings.index(each) for each in filter_findings(findings, AnnotationFilter(**limits), SIZE)]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"min_score": 0.5}, [1, 2, 3]),
        ({"min_side": 0.1}, [0, 2]),
        ({"max_side": 0.5}, [0, 1, 3]),
        ({"min_area": 0.01}, [0, 1, 2]),
        ({"max_area": 0.01}, [0, 1, 3]),
        ({"max_aspect": 2.0}, [0, 2]),
        ({"max_count": 2}, [1, 2]),
        ({"max_count": 2, "max_aspect": 2}, [0, 2]),
    ],
)
def test_each_limit_alone(limits: dict[str, float], expected: list[int]) -> None:
    findings = [
        make_finding("a", 0, 0, 100, 50, score=0.4),
        make_finding("b", 0, 0, 20, 250, score=0.8),
        make_finding("c", 0, 0, 1000, 500, score=0.9),
        make_finding("d", 5, 5, 5, 5, score=0.8)
        if limits.get("max_aspect") is None
        else make_finding("d", 0, 0, 0, 9, score=0.8),
    ]
    assert filter_indexes(findings, **limits) == expected


def test_nms_compares_equal_labels_and_class_agnostic_nms_all() -> None:
    findings = [
        make_finding("cat", 0, 0, 100, 100, score=0.6),
        make_finding("cat", 0, 0, 100, 90, score=0.8),
        make_finding("dog", 0, 0, 100, 100, score=0.7),
        make_finding("cat", 200, 0, 300, 100),
    ]
    assert filter_indexes(findings, nms=0.5) == [1, 2, 3]
    assert filter_indexes(findings, class_agnostic_nms=0.5) == [1, 3]
    assert filter_indexes(findings, class_agnostic_nms=0.95) == [1, 2, 3]


def test_the_first_of_equal_scores_stays() -> None:
    findings = [make_finding("cat", 0, 0, 9, 9) for _ in range(4)]
    assert filter_indexes(findings, nms=0.5) == [0]
    assert filter_indexes(findings, max_count=2) == [0, 1]


def test_texts_pass_limits_on_shapes() -> None:
    texts = [Finding(Text(label="a", score=0.2)), Finding(Text(label="b", score=0.8)), Finding(Text(label="c"))]
    assert filter_indexes(texts, min_score=0.5) == [1, 2]
    assert filter_indexes(texts, min_side=0.5) == [0, 1, 2]


def test_other_shapes_are_measured_by_their_bounding_boxes() -> None:
    findings = [Finding(make_quad("a", 0, 0, 100, 0, 100, 50, 0, 50)), make_finding("a", 0, 0, 100, 50, score=0.95)]
    assert filter_indexes(findings, nms=0.99) == [1]


FINDINGS = st.lists(
    st.builds(
        lambda label, x, y, w, h, score: make_finding(label, x, y, x + w, y + h, score=score),
        st.sampled_from(["cat", "dog", ""]),
        *[st.integers(0, 20)] * 4,
        st.sampled_from([None, 0.2, 0.5]),
    ),
    max_size=12,
)


@deterministic
@given(FINDINGS, st.sampled_from([0.1, 0.5, 1.0]), st.booleans())
def test_suppressing_again_changes_nothing(findings: list[Finding], min_iou: float, class_agnostic: bool) -> None:
    once = suppress_overlaps(findings, min_iou, class_agnostic=class_agnostic)
    assert suppress_overlaps(once, min_iou, class_agnostic=class_agnostic) == once
    assert not findings or once
