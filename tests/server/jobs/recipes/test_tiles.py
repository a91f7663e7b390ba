"""Where tiles lie, and one thing seen by several made one."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from server.jobs.recipes.findings import Finding
from server.jobs.recipes.recipe import Tile
from server.jobs.recipes.tiles import crops, is_cut, merged
from tests.server.jobs.recipes.answering import box, steady

TILES = st.builds(Tile, size=st.integers(128, 700), overlap=st.floats(0, 0.5))
SIDES = st.integers(1, 3000)


def finding(label: str, *corners: float, score: float = 0.9, cut: bool = False) -> Finding:
    return Finding(box(label, *corners, score=score), cut=cut)


def plain(found: Sequence[Finding]) -> list[object]:
    return [(each.annotation, each.doubts, each.cut) for each in found]


@steady
@given(SIDES, SIDES, TILES)
def test_tiles_cover_the_picture_and_overlap(width: int, height: int, tile: Tile) -> None:
    tiles = crops((width, height), tile)
    assume(tiles)
    for low, high, side in ((0, 2, width), (1, 3, height)):
        spans = sorted({(crop[low], crop[high]) for crop in tiles})
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        assert all(end - start == min(tile.size, side) for start, end in spans)
        for (_, end), (start, _) in pairwise(spans):
            assert end - start >= tile.size * tile.overlap - 1  # whole pixels


def test_a_picture_that_fits_has_no_tiles() -> None:
    assert crops((512, 300), Tile(size=512)) == []
    assert crops((513, 300), Tile(size=512, overlap=0)) == [(0, 0, 512, 300), (1, 0, 513, 300)]


@steady
@given(st.integers(701, 3000), st.integers(1, 3000), TILES, st.data())
def test_what_is_smaller_than_the_overlap_is_whole_in_a_tile(
    width: int, height: int, tile: Tile, data: st.DataObject
) -> None:
    """So it comes from some tile uncut, in the picture's own coordinates."""
    most = int(tile.size * (tile.overlap - 0.03)) - 3
    assume(most >= 1)
    x = data.draw(st.integers(0, width - 1))
    y = data.draw(st.integers(0, height - 1))
    thing = (x, y, min(x + most, width), min(y + most, height))
    inside = [
        crop
        for crop in crops((width, height), tile)
        if crop[0] <= x and crop[1] <= y and thing[2] <= crop[2] and thing[3] <= crop[3]
    ]
    assert any(not is_cut(thing, crop, (width, height)) for crop in inside)


@pytest.mark.parametrize(
    ("place", "cut"),
    [
        ((100, 100, 200, 200), True),  # at the left edge, inside the picture
        ((100.4, 150, 150, 160), True),
        ((150, 150, 160, 160), False),
        ((150, 0, 160, 10), False),  # at the picture's own edge
        ((150, 150, 200, 160), True),
        ((150, 150, 160, 200), False),
    ],
)
def test_cut(place: tuple[float, ...], cut: bool) -> None:
    x1, y1, x2, y2 = place
    assert is_cut((x1, y1, x2, y2), (100, 0, 200, 200), (1000, 200)) is cut


def test_one_thing_is_one_finding_the_surer() -> None:
    found = [
        finding("cat", 0, 0, 10, 10, score=0.5),
        finding("cat", 0, 0, 10, 9, score=0.8),
        finding("dog", 0, 0, 10, 10),
        finding("cat", 20, 0, 30, 10),
    ]
    assert merged(found, 0.5) == [found[1], found[2], found[3]]


def test_a_piece_gives_way_to_the_whole_however_sure() -> None:
    whole, piece, lone = (
        finding("bus", 0, 0, 100, 10, score=0.2),
        finding("bus", 0, 0, 20, 10, cut=True),
        finding("bus", 500, 0, 520, 10, cut=True),
    )
    first, second = merged([piece, whole, lone], 0.5)
    assert first is whole
    assert second.doubts == ("cut by the edge of a tile",)


FOUND = st.lists(
    st.builds(
        lambda label, x, y, w, h, score, cut: finding(label, x, y, x + w, y + h, score=score, cut=cut),
        st.sampled_from(["cat", "dog"]),
        *[st.integers(0, 20)] * 4,
        st.sampled_from([0.2, 0.5, 0.9]),
        st.booleans(),
    ),
    max_size=12,
)


@steady
@given(FOUND, st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_merging_again_changes_nothing(found: list[Finding], at: float) -> None:
    once = merged(found, at)
    assert plain(merged(once, at)) == plain(once)
