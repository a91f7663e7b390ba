"""Pixels → the basic colour names of English (Berlin and Kay's eleven)."""

import colorsys

import numpy as np

COLOR_NAMES: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"
)  # fmt: skip

CLEAR_MARGIN = 0.2
"""From which lead over the next, as a share of what is seen of an object, a colour counts as clearly its own."""

# Upper ends of the hues in degrees; red also begins again behind pink.
HUE_LIMITS = ((14, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (258, "blue"), (293, "purple"), (342, "pink"), (361, "red"))  # fmt: skip  # noqa: E501


def classify_pixels(pixels: np.ndarray) -> np.ndarray:
    """(n, 3) RGB 0-255 → (n,) indices into NAMES, by thresholds on hue, saturation and value."""
    rgb = pixels.astype(np.float32) / 255
    high, low = rgb.max(axis=1), rgb.min(axis=1)
    span = np.maximum(high - low, 1e-6)
    saturation = (high - low) / np.maximum(high, 1e-6)
    red, green, blue = rgb.T
    hue = np.where(high == red, (green - blue) / span % 6, np.where(high == green, (blue - red) / span + 2, (red - green) / span + 4)) * 60  # fmt: skip  # noqa: E501
    ends = np.array([end for end, _ in HUE_LIMITS])
    names = np.array([COLOR_NAMES.index(name) for _, name in HUE_LIMITS])
    found = names[np.searchsorted(ends, hue, side="right").clip(max=len(HUE_LIMITS) - 1)]
    warm = (hue > 8) & (hue < 50)
    found = np.where(warm & (high < 0.72) & (saturation > 0.2), COLOR_NAMES.index("brown"), found)
    found = np.where(((hue < 20) | (hue > 330)) & (saturation < 0.55) & (high > 0.72), COLOR_NAMES.index("pink"), found)
    pale = saturation < np.where(high > 0.85, 0.13, 0.18)
    found = np.where(pale, np.where(high > 0.84, COLOR_NAMES.index("white"), COLOR_NAMES.index("grey")), found)
    return np.where((high < 0.2) | (pale & (high < 0.3)), COLOR_NAMES.index("black"), found)


def measure_color_shares(pixels: np.ndarray) -> tuple[float, ...]:
    """Of each of NAMES its share of (n, 3) RGB pixels, n > 0."""
    return tuple((np.bincount(classify_pixels(pixels), minlength=len(COLOR_NAMES)) / len(pixels)).tolist())


def pure_color_shares(name: str) -> tuple[float, ...]:
    """The `shares` of what is all of one colour."""
    return tuple(float(one == name) for one in COLOR_NAMES)


def main_color(measure_color_shares: tuple[float, ...]) -> str:
    """The name with the largest share."""
    return COLOR_NAMES[int(np.argmax(measure_color_shares))]


def main_color_margin(measure_color_shares: tuple[float, ...]) -> float:
    """By how much the largest share is larger than the next: 0 where two colours are as common."""
    first, second = sorted(measure_color_shares)[-1:-3:-1]
    return first - second


def have_distinct_colors(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two things can be told apart by their commonest colours."""
    return main_color(one) != main_color(other) and min(main_color_margin(one), main_color_margin(other)) >= CLEAR_MARGIN


def find_main_color(pixels: np.ndarray) -> str:
    """The commonest name among (n, 3) RGB pixels, n > 0."""
    return main_color(measure_color_shares(pixels))


def pick_random_color(rng: np.random.Generator) -> tuple[int, int, int]:
    """Any hue, half of the time pale as walls and paper are, seldom dark, in one of seven a grey."""
    hue, kind = rng.random(), rng.random()
    if kind < 0.15:
        saturation, value = 0.05 * rng.random(), rng.uniform(0.1, 1)
    elif kind < 0.6:
        saturation, value = rng.uniform(0.1, 0.45), rng.uniform(0.8, 1)
    else:
        saturation, value = rng.uniform(0.3, 0.95), rng.uniform(0.2, 1)
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def luma(color: np.ndarray | tuple[int, int, int]) -> float:
    """Rec. 601 brightness of one RGB colour, 0-255."""
    red, green, blue = (float(c) for c in color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def pick_contrasting_color(
    rng: np.random.Generator, other: np.ndarray | tuple[int, int, int], least: float = 95
) -> tuple[int, int, int]:
    """A random colour whose brightness differs from that of `other` by `least`; black or white when none is found."""
    for _ in range(12):
        color = pick_random_color(rng)
        if abs(luma(color) - luma(other)) >= least:
            return color
    return (0, 0, 0) if luma(other) > 127 else (255, 255, 255)
