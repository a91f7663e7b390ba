"""Pixel coordinates ↔ the 1000 location tokens.

Florence-2 divides each axis into 1000 equal bins. `<loc_k>` covers k·size/1000 … (k+1)·size/1000, and decodes to the
center of its bin (Florence-2, arXiv:2311.06242, section 4.1; Microsoft's processor).
"""

import math
import re
from collections.abc import Sequence

BINS = 1000
# Only this spelling is a location token. `<loc_007>` and digits of other scripts are text.
LOCATION_PATTERN = re.compile(r"<loc_(0|[1-9][0-9]{0,2})>")


def quantize(value: float, size: float) -> int:
    """Returns the bin, 0 … 999, of a coordinate in pixels on an axis of `size` pixels. Clamps values outside it.

    Raises ValueError when the coordinate is NaN, or `size` is not positive and finite.
    """
    if not size > 0 or math.isinf(size):
        raise ValueError(f"size must be a positive number of pixels, not {size}")
    if math.isnan(value):
        raise ValueError("a coordinate is not a number (NaN)")
    return int(min(max(value / (size / BINS), 0.0), BINS - 1.0))


def dequantize(location: int, size: float) -> float:
    """Returns the center of bin `location` (0 … 999), in pixels on an axis of `size` pixels.

    Raises ValueError when there is no such bin.
    """
    if not 0 <= location < BINS:
        raise ValueError(f"a location must be 0 … {BINS - 1}, not {location}")
    return (location + 0.5) * size / BINS


def quantize_points(points: Sequence[float], width: float, height: float) -> list[int]:
    """Converts flat x, y, x, y … in pixels to bins in the same order."""
    return [quantize(v, height if i % 2 else width) for i, v in enumerate(points)]


def dequantize_points(locations: Sequence[int], width: float, height: float) -> list[float]:
    """Converts flat bins x, y, x, y … to pixels in the same order."""
    return [dequantize(v, height if i % 2 else width) for i, v in enumerate(locations)]


def format_locations(locations: Sequence[int]) -> str:
    """Converts bins to their tokens: `<loc_12><loc_34>…`"""
    return "".join(f"<loc_{v}>" for v in locations)
