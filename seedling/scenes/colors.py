"""Maps pixels to the basic color names of English (the eleven of Berlin and Kay)."""

import colorsys

import numpy as np

COLOR_NAMES: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey"
)  # fmt: skip

CLEAR_MARGIN = 0.2
"""An object clearly has one color when its main color leads the second by at least this share of its pixels."""

# Upper ends of the hues in degrees; red starts again after pink.
HUE_LIMITS = ((14, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (258, "blue"), (293, "purple"), (342, "pink"), (361, "red"))  # fmt: skip  # noqa: E501


def classify_pixels(pixels: np.ndarray) -> np.ndarray:
    """Returns the index into COLOR_NAMES of each pixel, by thresholds on hue, saturation and value.

    (n, 3) RGB 0-255 → (n,).
    """
    rgb = pixels.astype(np.float32) / 255
    high, low = rgb.max(axis=1), rgb.min(axis=1)
    span = np.maximum(high - low, 1e-6)
    saturation = (high - low) / np.maximum(high, 1e-6)
    red, green, blue = rgb.T
    hue = np.where(high == red, (green - blue) / span % 6, np.where(high == green, (blue - red) / span + 2, (red - green) / span + 4)) * 60  # fmt: skip  # noqa: E501
    ends = np.array([end for end, _ in HUE_LIMITS])
    names = np.array([COLOR_NAMES.index(name) for _, name in HUE_LIMITS])
    indices = names[np.searchsorted(ends, hue, side="right").clip(max=len(HUE_LIMITS) - 1)]
    warm = (hue > 8) & (hue < 50)
    indices = np.where(warm & (high < 0.72) & (saturation > 0.2), COLOR_NAMES.index("brown"), indices)
    pink = ((hue < 20) | (hue > 330)) & (saturation < 0.55) & (high > 0.72)
    indices = np.where(pink, COLOR_NAMES.index("pink"), indices)
    pale = saturation < np.where(high > 0.85, 0.13, 0.18)
    indices = np.where(pale, np.where(high > 0.84, COLOR_NAMES.index("white"), COLOR_NAMES.index("grey")), indices)
    return np.where((high < 0.2) | (pale & (high < 0.3)), COLOR_NAMES.index("black"), indices)


def measure_color_shares(pixels: np.ndarray) -> tuple[float, ...]:
    """Returns the share of each of COLOR_NAMES among (n, 3) RGB pixels, n > 0."""
    return tuple((np.bincount(classify_pixels(pixels), minlength=len(COLOR_NAMES)) / len(pixels)).tolist())


def make_pure_color_shares(name: str) -> tuple[float, ...]:
    """Returns the color shares of something that has one color only."""
    return tuple(float(one == name) for one in COLOR_NAMES)


def get_main_color(shares: tuple[float, ...]) -> str:
    """Returns the name with the largest share."""
    return COLOR_NAMES[int(np.argmax(shares))]


def compute_main_color_margin(shares: tuple[float, ...]) -> float:
    """Returns the difference between the largest and the second largest share."""
    first, second = sorted(shares)[-1:-3:-1]
    return first - second


def have_distinct_colors(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Returns whether the main colors of two objects differ and are both clear (`CLEAR_MARGIN`)."""
    if get_main_color(one) == get_main_color(other):
        return False
    return min(compute_main_color_margin(one), compute_main_color_margin(other)) >= CLEAR_MARGIN


def find_main_color(pixels: np.ndarray) -> str:
    """Returns the most common name among (n, 3) RGB pixels, n > 0."""
    return get_main_color(measure_color_shares(pixels))


def pick_random_color(rng: np.random.Generator) -> tuple[int, int, int]:
    """Returns an RGB color of any hue: about half are pale like walls and paper, one in seven is grey, few are dark."""
    hue, kind = rng.random(), rng.random()
    if kind < 0.15:
        saturation, value = 0.05 * rng.random(), rng.uniform(0.1, 1)
    elif kind < 0.6:
        saturation, value = rng.uniform(0.1, 0.45), rng.uniform(0.8, 1)
    else:
        saturation, value = rng.uniform(0.3, 0.95), rng.uniform(0.2, 1)
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def compute_luma(color: np.ndarray | tuple[int, int, int]) -> float:
    """Returns the Rec. 601 brightness of one RGB color, 0-255."""
    red, green, blue = (float(c) for c in color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def pick_contrasting_color(
    rng: np.random.Generator, other: np.ndarray | tuple[int, int, int], least: float = 95
) -> tuple[int, int, int]:
    """Returns a random color whose brightness differs from that of `other` by at least `least`.

    Falls back to black or white after 12 tries.
    """
    for _ in range(12):
        color = pick_random_color(rng)
        if abs(compute_luma(color) - compute_luma(other)) >= least:
            return color
    return (0, 0, 0) if compute_luma(other) > 127 else (255, 255, 255)
