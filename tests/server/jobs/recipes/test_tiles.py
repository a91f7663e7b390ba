"""Positions of tiles, and the merge of their findings."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from server.jobs.recipes.findings import Finding
from server.jobs.recipes.recipe import Tiling
from server.jobs.recipes.tiles import is_cut, merge_findings, split_into_tiles
from tests.server.jobs.recipes.scripted_answers import deterministic, make_box

TILINGS = st.builds(Tiling, size=st.integers(128, 700), overlap=st.floats(0, 0.5))
SIDES = st.integers(1, 3000)


def make_finding(label: str, *corners: float, score: float = 0.9, is_cut: bool = False) -> Finding:
    return Finding(make_box(label, *corners, score=score), is_cut=is_cut)


def to_values(findings: Sequence[Finding]) -> list[object]:
    """Returns what two findings are compared by, since they compare by identity."""
    return [(each.annotation, each.review_reasons, each.is_cut) for each in findings]


@deterministic
@given(SIDES, SIDES, TILINGS)
def test_tiles_cover_the_image_and_overlap(width: int, height: int, tiling: Tiling) -> None:
    tiles = split_into_tiles((width, height), tiling)
    assume(tiles)
    for low, high, side in ((0, 2, width), (1, 3, height)):
        spans = sorted({(crop[low], crop[high]) for crop in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        assert all(end - start == min(tiling.size, side) for start, end in spans)
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= tiling.size * tiling.overlap - 1  # whole pixels


def test_an_image_that_fits_into_one_tile_has_no_tiles() -> None:
    assert split_into_tiles((512, 300), Tiling(size=512)) == []
    assert split_into_tiles((513, 300), Tiling(size=512, overlap=0)) == [(0, 0, 512, 300), (1, 0, 513, 300)]


@deterministic
@given(st.integers(701, 3000), st.integers(1, 3000), TILINGS, st.data())
def test_an_object_smaller_than_the_overlap_is_whole_in_some_tile(
    width: int, height: int, tiling: Tiling, data: st.DataObject
) -> None:
    """So at least one tile finds it whole."""
    most = int(tiling.size * (tiling.overlap - 0.03)) - 3
    assume(most >= 1)
    x = data.draw(st.integers(0, width - 1))
    y = data.draw(st.integers(0, height - 1))
    target = (x, y, min(x + most, width), min(y + most, height))
    inside = [
        crop
        for crop in split_into_tiles((width, height), tiling)
        if crop[0] <= x and crop[1] <= y and target[2] <= crop[2] and target[3] <= crop[3]
    ]
    assert any(not is_cut(target, crop, (width, height)) for crop in inside)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 100, 200, 200), True),  # at the left edge of the tile, inside the image
        ((100.4, 150, 150, 160), True),
        ((150, 150, 160, 160), False),
        ((150, 0, 160, 10), False),  # at an edge of the image
        ((150, 150, 200, 160), True),
        ((150, 150, 160, 200), False),
    ],
)
def test_a_box_is_cut_by_edges_inside_the_image(box: tuple[float, ...], expected: bool) -> None:
    x1, y1, x2, y2 = box
    assert is_cut((x1, y1, x2, y2), (100, 0, 200, 200), (1000, 200)) is expected


def test_the_highest_score_of_one_object_stays() -> None:
    findings = [
        make_finding("cat", 0, 0, 10, 10, score=0.5),
        make_finding("cat", 0, 0, 10, 9, score=0.8),
        make_finding("dog", 0, 0, 10, 10),
        make_finding("cat", 20, 0, 30, 10),
    ]
    assert merge_findings(findings, 0.5) == [findings[1], findings[2], findings[3]]


def test_a_whole_object_replaces_a_part_with_a_higher_score() -> None:
    whole, part, lone = (
        make_finding("bus", 0, 0, 100, 10, score=0.2),
        make_finding("bus", 0, 0, 20, 10, is_cut=True),
        make_finding("bus", 500, 0, 520, 10, is_cut=True),
    )
    first, second = merge_findings([part, whole, lone], 0.5)
    assert first is whole
    assert second.review_reasons == ("cut by the edge of a tile",)


FINDINGS = st.lists(
    st.builds(
        lambda label, x, y, w, h, score, cut: make_finding(label, x, y, x + w, y + h, score=score, is_cut=cut),
        st.sampled_from(["cat", "dog"]),
        *[st.integers(0, 20)] * 4,
        st.sampled_from([0.2, 0.5, 0.9]),
        st.booleans(),
    ),
    max_size=12,
)


@deterministic
@given(FINDINGS, st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_merging_again_changes_nothing(findings: list[Finding], min_iou: float) -> None:
    once = merge_findings(findings, min_iou)
    assert to_values(merge_findings(once, min_iou)) == to_values(once)
