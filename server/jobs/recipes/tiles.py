"""Tiles of a large image: their positions, and the merge of their findings."""

import math
from collections.abc import Sequence

from labels.geometry import Rectangle
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.overlaps import compare_labels, compute_ios, compute_iou, select_greedily
from server.jobs.recipes.recipe import Tiling

Crop = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels of the image

# Share of a tile's side within which a box ends at its edge: locations have a resolution of a thousandth, and models
# often stop a little before an edge.
_EDGE = 0.005


def split_into_tiles(size: tuple[int, int], tiling: Tiling) -> list[Crop]:
    """Returns the tiles of an image of `size`, row by row. They are evenly spaced and overlap by `overlap` or more.
    The list is empty if one tile would cover the image."""
    width, height = size
    if max(size) <= tiling.size:
        return []
    columns, rows = _compute_starts(width, tiling), _compute_starts(height, tiling)
    return [(x, y, min(x + tiling.size, width), min(y + tiling.size, height)) for y in rows for x in columns]


def is_cut(box: Rectangle, crop: Crop, size: tuple[int, int]) -> bool:
    """Returns whether a box ends at an edge of the crop that is not an edge of the image. All are in pixels of the
    image."""
    x, y = _EDGE * (crop[2] - crop[0]), _EDGE * (crop[3] - crop[1])
    return (
        (crop[0] > 0 and box[0] <= crop[0] + x)
        or (crop[1] > 0 and box[1] <= crop[1] + y)
        or (crop[2] < size[0] and box[2] >= crop[2] - x)
        or (crop[3] < size[1] and box[3] >= crop[3] - y)
    )


def merge_findings(findings: Sequence[Finding], min_iou: float) -> list[Finding]:
    """Returns one finding for each object.

    Of findings with one label and an IoU of `min_iou` or more, the one with the highest score stays. A finding that a
    tile cuts is dropped if that share of it lies inside another with its label; otherwise it is marked for review.
    """
    cut = [each.is_cut for each in findings]
    conflicts = compute_iou(findings, findings) >= min_iou
    for index in (i for i, is_part in enumerate(cut) if is_part):
        conflicts[index] |= compute_ios([findings[index]], findings)[0] >= min_iou
    conflicts &= compare_labels(findings, findings)
    order = sorted(range(len(findings)), key=lambda i: (cut[i], -findings[i].score))
    reason = "cut by the edge of a tile"
    return [
        each.with_review_reason(reason) if each.is_cut and reason not in each.review_reasons else each
        for each in select_greedily(findings, conflicts, order)
    ]


def _compute_starts(side: int, tiling: Tiling) -> list[int]:
    """Returns where the tiles begin along one side. The last one ends with the image."""
    if side <= tiling.size:
        return [0]
    gaps = math.ceil((side - tiling.size) / (tiling.size * (1 - tiling.overlap)))
    return [round(i * (side - tiling.size) / gaps) for i in range(gaps + 1)]
