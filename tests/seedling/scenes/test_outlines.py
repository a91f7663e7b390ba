"""Outlines and colour names on shapes whose answers are known."""

import numpy as np
import pytest

from seedling.scenes import colors
from seedling.scenes.outlines import area, outlines, simplified


def test_a_rectangle_is_its_four_corners() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:50] = 255
    (ring,) = outlines(alpha)
    # The contour cuts the corners by less than a pixel.
    assert np.abs(ring.min(axis=0) - [20, 10]).max() < 0.1
    assert np.abs(ring.max(axis=0) - [50, 30]).max() < 0.1
    assert abs(area(ring) - 600) < 15


def test_a_large_disc_is_round_at_sixteen_points() -> None:
    y, x = np.mgrid[:400, :400]
    alpha = np.where((x - 199.5) ** 2 + (y - 199.5) ** 2 < 150**2, 255, 0).astype(np.uint8)
    (ring,) = outlines(alpha)
    assert len(ring) <= 16
    assert area(ring) == pytest.approx(np.pi * 150**2, rel=0.06)
    assert ring[0, 1] == ring[:, 1].min()


def test_parts_largest_first_without_crumbs_and_holes() -> None:
    alpha = np.zeros((100, 100), np.uint8)
    alpha[5:25, 5:25] = 255
    alpha[40:95, 40:95] = 255
    alpha[60:70, 60:70] = 0
    alpha[2:4, 90:92] = 255
    first, second = outlines(alpha)
    assert area(first) > area(second) > 0
    assert first.min() > 39
    assert second.max() < 26


def test_nothing_visible_has_no_outline() -> None:
    assert outlines(np.full((5, 5), 127, np.uint8)) == []


def test_simplifying_keeps_the_first_point_and_the_worst_corner() -> None:
    ring = np.array([[0, 0], [5, 0.01], [10, 0], [10, 10], [0, 10]], float)
    kept = simplified(ring, tolerance=0.1)
    assert kept.tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 30, 30), "red"),
        ((250, 140, 20), "orange"),
        ((250, 225, 40), "yellow"),
        ((40, 160, 60), "green"),
        ((40, 90, 220), "blue"),
        ((130, 50, 200), "purple"),
        ((245, 130, 190), "pink"),
        ((120, 70, 30), "brown"),
        ((10, 10, 12), "black"),
        ((250, 250, 248), "white"),
        ((128, 128, 130), "grey"),
    ],
)
def test_colour_names(rgb: tuple[int, int, int], name: str) -> None:
    pixels = np.array([rgb] * 3 + [(0, 255, 0)], np.uint8)
    assert colors.find_main_color(pixels) == name
    assert colors.measure_color_shares(pixels)[colors.COLOR_NAMES.index(name)] == (1 if name == "green" else 0.75)


def test_contrasting_colours_contrast() -> None:
    rng = np.random.default_rng(0)
    for level in range(0, 256, 15):
        other = (level, level, level)
        assert abs(colors.luma(colors.pick_contrasting_color(rng, other)) - level) >= 95
