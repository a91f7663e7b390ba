"""Outlines of simple shapes."""

import numpy as np
import pytest

from labels.geometry import signed_area
from seedling.scenes.outlines import simplify, trace_outlines


def test_a_rectangle_has_its_four_corners() -> None:
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:50] = 255
    (ring,) = trace_outlines(alpha)
    # The contour cuts each corner by less than a pixel.
    assert np.abs(ring.min(axis=0) - [20, 10]).max() < 0.1
    assert np.abs(ring.max(axis=0) - [50, 30]).max() < 0.1
    assert abs(signed_area(ring.ravel()) - 600) < 15


def test_a_large_disc_stays_round_with_sixteen_points() -> None:
    y, x = np.mgrid[:400, :400]
    alpha = np.where((x - 199.5) ** 2 + (y - 199.5) ** 2 < 150**2, 255, 0).astype(np.uint8)
    (ring,) = trace_outlines(alpha)
    assert len(ring) <= 16
    assert signed_area(ring.ravel()) == pytest.approx(np.pi * 150**2, rel=0.06)
    assert ring[0, 1] == ring[:, 1].min()


def test_parts_come_largest_first_without_holes_and_tiny_parts() -> None:
    alpha = np.zeros((100, 100), np.uint8)
    alpha[5:25, 5:25] = 255
    alpha[40:95, 40:95] = 255
    alpha[60:70, 60:70] = 0
    alpha[2:4, 90:92] = 255
    first, second = trace_outlines(alpha)
    assert signed_area(first.ravel()) > signed_area(second.ravel()) > 0
    assert first.min() > 39
    assert second.max() < 26


def test_an_invisible_mask_has_no_outline() -> None:
    assert trace_outlines(np.full((5, 5), 127, np.uint8)) == []


def test_simplifying_keeps_the_first_point_and_the_sharpest_corners() -> None:
    ring = np.array([[0, 0], [5, 0.01], [10, 0], [10, 10], [0, 10]], float)
    simplified = simplify(ring, tolerance=0.1)
    assert simplified.tolist() == [[0, 0], [10, 0], [10, 10], [0, 10]]
