from typing import Any

import pytest

from labels.reading import checks


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (20, 10, (20, 10)),
        (20.0, 10.0, (20, 10)),
        ("20", " 10 ", (20, 10)),
        ("20.0", "10.", (20, 10)),
        (20.5, 10, None),
        (0, 0, None),
        (-20, 10, None),
        (True, 10, None),
        ("twenty", 10, None),
        ("9" * 30, 10, None),
        (float("nan"), 10, None),
        (float("inf"), 10, None),
        (10**400, 10, None),
        (None, 10, None),
        ([20], 10, None),
    ],
)
def test_sizes(width: Any, height: Any, expected: Any) -> None:
    assert checks.parse_size(width, height) == expected


def test_rings_are_split_into_those_with_an_area_and_reasons() -> None:
    good = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
    rings = [good, [1, 1, 9, 9], [1, 1, 5, 5, 9, 9], [1, 1, 9, 1, 9], ["x"] * 6, None, 7]
    found, reasons = checks.split_rings(rings)
    assert found == [good]
    assert [reason.partition(";")[0] for reason in reasons] == [
        "its polygon has 2 points",
        "its polygon has no area",
        "its polygon has 5 numbers, an x without its y",
        "its position contains 'x', which is not a number",
        "its position is None, not a list of numbers",
        "its position is 7, not a list of numbers",
    ]


def test_a_clipped_polygon_is_the_checked_one() -> None:
    rings = [[-5.0, 1.0, 9.0, 1.0, 9.0, 9.0], [20.0, 20.0, 30.0, 20.0, 30.0, 30.0]]
    assert checks.clip_polygon("cat", rings, (50, 50)) == checks.check_polygon("cat", rings, (50, 50))
    assert checks.clip_polygon("cat", rings[1:], (50, 50)).polygons == rings[1:]
    with pytest.raises(checks.LabelError, match="outside"):
        checks.clip_polygon("cat", rings, (5, 5))


def test_base64_may_have_lines_and_a_prefix() -> None:
    assert checks.decode_base64("data:image/png;base64,aGVs\nbG8=\r\n") == b"hello"
    for data in ("$$", "aGVsbG8", None, 7):
        with pytest.raises(checks.LabelError, match="not Base64"):
            checks.decode_base64(data)
