from typing import Any

import pytest

from labels.formats.coco_annotations import is_set, read_rings, to_key
from labels.reading.checks import LabelError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (1.0, 1),
        ("1", 1),
        (" 1.0 ", 1),
        ("-1", -1),
        (900100448263, 900100448263),
        ("900100448263", 900100448263),
        ("000000000139", "000000000139"),  # may differ from 139
        ("01", "01"),
        ("a.jpg", "a.jpg"),
        ("", ""),
        (1.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_keys(value: Any, expected: Any) -> None:
    assert to_key(value) == expected
    assert type(to_key(value)) is type(expected)


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "1.0", "true", "True"])
def test_flags_that_are_set(value: Any) -> None:
    assert is_set(value)


@pytest.mark.parametrize("value", [0, 0.0, False, None, "0", "false", "", [], {}, 2])
def test_flags_that_are_not_set(value: Any) -> None:
    assert not is_set(value)


RING = [1, 1, 9, 1, 9, 9]


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([RING], [RING]),
        (RING, [RING]),
        ([[1, 1], [9, 1], [9, 9]], [RING]),
        ([[[1, 1], [9, 1], [9, 9]], RING], [RING, RING]),
        ([RING, []], [RING]),
        ([[1, 1], [9, 9]], [[1, 1], [9, 9]]),  # two rings of one point
        ([RING, None], [RING, None]),
        ([{"x": 1}], [{"x": 1}]),
        (None, []),
        ([], []),
        ("", []),
    ],
)
def test_rings(segmentation: Any, expected: Any) -> None:
    assert read_rings({"segmentation": segmentation}, (100, 80)) == expected


@pytest.mark.parametrize("segmentation", ["x", 7, {"size": [1, 1], "counts": "x"}])
def test_unreadable_segmentations(segmentation: Any) -> None:
    with pytest.raises(LabelError):
        read_rings({"segmentation": segmentation}, (100, 80))
