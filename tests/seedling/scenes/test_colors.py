"""Color names of pixels."""

import numpy as np
import pytest

from seedling.scenes import colors


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
def test_color_names(rgb: tuple[int, int, int], name: str) -> None:
    pixels = np.array([rgb] * 3 + [(0, 255, 0)], np.uint8)
    assert colors.find_main_color(pixels) == name
    shares = colors.measure_color_shares(pixels)
    assert shares[colors.COLOR_NAMES.index(name)] == (1 if name == "green" else 0.75)


def test_contrasting_colors_differ_in_brightness() -> None:
    rng = np.random.default_rng(0)
    for level in range(0, 256, 15):
        other = (level, level, level)
        assert abs(colors.compute_luma(colors.pick_contrasting_color(rng, other)) - level) >= 95
