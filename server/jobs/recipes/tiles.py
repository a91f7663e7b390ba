"""A large picture in squares: where they lie, and their answers made one."""

import math
from collections.abc import Sequence

from labels.geometry import Rectangle
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.overlaps import first_of, inside, iou, same_label
from server.jobs.recipes.recipe import Tiling

Crop = tuple[int, int, int, int]  # x1, y1, x2, y2 in whole pixels of the picture

_EDGE = 0.005  # of a tile's side: a place is known to a thousandth of it, and models stop a little short of an edge


def crops(size: tuple[int, int], tile: Tiling) -> list[Crop]:
    """The squares of a picture of `size`, row by row, spread evenly and overlapping by `overlap` or more; none where
    one would hold all of it."""
    width, height = size
    if max(size) <= tile.size:
        return []
    across, down = _starts(width, tile), _starts(height, tile)
    return [(x, y, min(x + tile.size, width), min(y + tile.size, height)) for y in down for x in across]


def is_cut(box: Rectangle, crop: Crop, size: tuple[int, int]) -> bool:
    """Whether a box ends at an edge of the crop that is none of the picture's, all in the picture's pixels."""
    x, y = _EDGE * (crop[2] - crop[0]), _EDGE * (crop[3] - crop[1])
    return (
        (crop[0] > 0 and box[0] <= crop[0] + x)
        or (crop[1] > 0 and box[1] <= crop[1] + y)
        or (crop[2] < size[0] and box[2] >= crop[2] - x)
        or (crop[3] < size[1] and box[3] >= crop[3] - y)
    )


def merged(found: Sequence[Finding], at: float) -> list[Finding]:
    """One finding for each thing: of one label and an IoU of `at` or more, the surer; and what a tile's edge cut goes
    where as much of it lies on a finding of that label. What is cut and stays is doubtful."""
    cut = [each.cut for each in found]
    conflicts = iou(found, found) >= at
    for index in (i for i, is_part in enumerate(cut) if is_part):
        conflicts[index] |= inside([found[index]], found)[0] >= at
    conflicts &= same_label(found, found)
    taken = first_of(found, conflicts, sorted(range(len(found)), key=lambda i: (cut[i], -found[i].score)))
    doubt = "cut by the edge of a tile"
    return [each.doubted(doubt) if each.cut and doubt not in each.doubts else each for each in taken]


def _starts(side: int, tile: Tiling) -> list[int]:
    """Where the tiles begin along one side, the last so that it ends with the picture."""
    if side <= tile.size:
        return [0]
    gaps = math.ceil((side - tile.size) / (tile.size * (1 - tile.overlap)))
    return [round(i * (side - tile.size) / gaps) for i in range(gaps + 1)]
