"""Alpha → polygons."""

import contourpy
import numpy as np
from PIL import Image

POINTS = 16
RINGS = 3
LARGEST = 112
"""Pixels of the longer side at which outlines are followed: finer ones are not worth their time at 16 points."""


def area(ring: np.ndarray) -> float:
    """Signed area of an (n, 2) ring, positive when it runs clockwise as one sees it (y down)."""
    x, y = ring.T
    # Relative to the first point, so that the closing edge adds nothing.
    x, y = x - x[0], y - y[0]
    return 0.5 * float(x[:-1] @ y[1:] - x[1:] @ y[:-1])


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distances of (n, 2) points from the segment start-end."""
    along = end - start
    share = ((points - start) @ along / max(float(along @ along), 1e-9)).clip(0, 1)
    return np.hypot(*(points - start - share[:, None] * along).T)


def simplified(ring: np.ndarray, tolerance: float, most: int = POINTS) -> np.ndarray:
    """Douglas and Peucker (1973) on a closed (n, 2) ring, worst split first, so that `most` points are the best ones.

    The first point stays the first.
    """
    far = int(np.argmax(np.hypot(*(ring - ring[0]).T)))
    closed = np.vstack([ring, ring[:1]])

    def worst(i: int, j: int) -> tuple[float, int]:
        if j - i < 2:
            return 0.0, i
        distances = _distances(closed[i + 1 : j], closed[i], closed[j])
        k = int(distances.argmax())
        return float(distances[k]), i + 1 + k

    spans = [(0, far), (far, len(ring))]
    errors = [worst(*span) for span in spans]
    while len(spans) < most:
        at = max(range(len(spans)), key=lambda k: errors[k][0])
        error, middle = errors[at]
        if error <= tolerance and len(spans) > 2:
            break
        if error <= 0:
            break
        i, j = spans[at]
        spans[at : at + 1] = [(i, middle), (middle, j)]
        errors[at : at + 1] = [worst(i, middle), worst(middle, j)]
    return closed[[i for i, _ in spans]]


def outlines(alpha: np.ndarray) -> list[np.ndarray]:
    """(h, w) alpha 0-255 → outer rings (n, 2) of the parts with more than half opacity, in pixels, the largest first.

    Clockwise from the topmost, then leftmost point; parts under 6 % of the largest are dropped, holes are ignored.
    Empty when nothing is visible.
    """
    height, width = alpha.shape
    scale = max(1.0, max(height, width) / LARGEST)
    if scale > 1:
        small = (max(1, round(width / scale)), max(1, round(height / scale)))
        alpha = np.asarray(Image.fromarray(alpha).resize(small, Image.Resampling.BOX))
    factors = np.array([width / alpha.shape[1], height / alpha.shape[0]])
    padded = np.pad(alpha.astype(np.float64), 1)
    contours = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    rings = []
    for part, offset in zip(*contours.filled(127.5, np.inf), strict=True):
        ring = np.asarray(part)[: offset[1] - 1]
        # A sample stands for the centre of its pixel, half a pixel inside; the padding shifted everything by one.
        ring = ((ring - 0.5) * factors).clip(0, [width, height])
        size = area(ring)
        rings.append((abs(size), ring if size > 0 else ring[::-1]))
    rings.sort(key=lambda sized: sized[0], reverse=True)
    result = []
    for size, ring in rings[:RINGS]:
        if size < max(0.06 * rings[0][0], 2.0):
            break
        first = int(np.lexsort((ring[:, 0], ring[:, 1]))[0])
        ring = np.roll(ring, -first, axis=0)
        result.append(simplified(ring, tolerance=0.012 * float(np.ptp(ring, axis=0).max())))
    return result
