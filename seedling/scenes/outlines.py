"""Traces alpha masks as polygons."""

import contourpy
import numpy as np
from PIL import Image

from labels.geometry import signed_area

MAX_POINTS = 16
MAX_RINGS = 3
MAX_SIDE = 112
"""Longer side in pixels at which contours are traced. A finer raster is not worth its time with 16 points."""


def trace_outlines(alpha: np.ndarray) -> list[np.ndarray]:
    """Returns the outer rings (n, 2), in pixels, of the parts of an (h, w) alpha mask with more than half opacity.

    The largest ring comes first. Rings run clockwise from the topmost, then leftmost point. Parts below 6 % of the
    largest are dropped, holes are ignored. Returns an empty list when nothing is visible.
    """
    height, width = alpha.shape
    scale = max(1.0, max(height, width) / MAX_SIDE)
    if scale > 1:
        small = (max(1, round(width / scale)), max(1, round(height / scale)))
        alpha = np.asarray(Image.fromarray(alpha).resize(small, Image.Resampling.BOX))
    factors = np.array([width / alpha.shape[1], height / alpha.shape[0]])
    padded = np.pad(alpha.astype(np.float64), 1)
    contours = contourpy.contour_generator(z=padded, fill_type=contourpy.FillType.OuterOffset)
    rings = []
    for part, offset in zip(*contours.filled(127.5, np.inf), strict=True):
        ring = np.asarray(part)[: offset[1] - 1]
        # A sample is the center of its pixel, half a pixel inside; the padding shifted everything by one.
        ring = ((ring - 0.5) * factors).clip(0, [width, height])
        area = signed_area(ring.ravel().tolist())
        rings.append((abs(area), ring if area > 0 else ring[::-1]))
    rings.sort(key=lambda sized: sized[0], reverse=True)
    outlines = []
    for area, ring in rings[:MAX_RINGS]:
        if area < max(0.06 * rings[0][0], 2.0):
            break
        first = int(np.lexsort((ring[:, 0], ring[:, 1]))[0])
        ring = np.roll(ring, -first, axis=0)
        outlines.append(simplify(ring, tolerance=0.012 * float(np.ptp(ring, axis=0).max())))
    return outlines


def simplify(ring: np.ndarray, tolerance: float, max_points: int = MAX_POINTS) -> np.ndarray:
    """Simplifies a closed (n, 2) ring by Douglas and Peucker (1973).

    The worst segment is split first, so `max_points` keeps the most important points. The first point stays first.
    """
    far = int(np.argmax(np.hypot(*(ring - ring[0]).T)))
    closed = np.vstack([ring, ring[:1]])

    def find_worst(i: int, j: int) -> tuple[float, int]:
        if j - i < 2:
            return 0.0, i
        distances = _compute_distances_to_segment(closed[i + 1 : j], closed[i], closed[j])
        k = int(distances.argmax())
        return float(distances[k]), i + 1 + k

    spans = [(0, far), (far, len(ring))]
    errors = [find_worst(*span) for span in spans]
    while len(spans) < max_points:
        at = max(range(len(spans)), key=lambda k: errors[k][0])
        error, middle = errors[at]
        if error <= tolerance and len(spans) > 2:
            break
        if error <= 0:
            break
        i, j = spans[at]
        spans[at : at + 1] = [(i, middle), (middle, j)]
        errors[at : at + 1] = [find_worst(i, middle), find_worst(middle, j)]
    return closed[[i for i, _ in spans]]


def _compute_distances_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Returns the distances of (n, 2) points from the segment start-end."""
    direction = end - start
    position = ((points - start) @ direction / max(float(direction @ direction), 1e-9)).clip(0, 1)
    return np.hypot(*(points - start - position[:, None] * direction).T)
