"""Masks that files keep as run lengths → the outer rings of what they cover. Holes are filled: no answer has any.

A mask of more pixels than locations can tell apart is reckoned with more coarsely, by the share of each square that it
covers: an outline then lies within a fifth of a square, and what is thinner than half of one is lost.
"""

import math
import warnings
from typing import Any

import contourpy
import numpy as np
import numpy.typing as npt
from PIL import Image

from labels.geometry import simplify_ring
from labels.reading import checks
from labels.reading.checks import LabelError, Size

Mask = npt.NDArray[np.bool_]
"""[height, width]"""

_TOLERANCE = 0.3  # pixels that a ring may leave the edge by; with half a pixel thin things lose half their area
_CHANNELS = 4  # red, green, blue, alpha
_FINEST = 2000  # squares along the longer side: two to a location's bin, where it is as long as the picture's
_MOST = 100  # parts: an answer tells 33 at most


def of_coco(said: dict[str, Any], size: Size) -> list[list[float]]:
    """Of COCO's `counts`, a list or compressed into a string, column by column; `size`: the picture's width and height.
    Raises LabelError."""
    if said.get("size") != [size[1], size[0]]:
        raise LabelError(f"its mask's size is {said.get('size')!r}, not its picture's height and width")
    return rings(_unpacked(said.get("counts"), size))


def of_cvat(said: dict[str, str], size: Size) -> list[list[float]]:
    """Of CVAT's `rle`, row by row in the rectangle of left, top, width and height. Raises LabelError."""
    left, top, width, height = (int(checks.check_number(said.get(side))) for side in ("left", "top", "width", "height"))
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        raise LabelError(f"its mask lies outside the image of {size[0]}×{size[1]} pixels")
    return rings(_unpacked(said.get("rle", "").split(","), (height, width)).T, left, top)


def of_labelstudio(said: object, size: Size) -> list[list[float]]:
    """Of Label Studio's `rle`: the bytes of all pixels' red, green, blue and alpha, packed as rle-pack does
    (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack); what is not transparent is covered. Raises
    LabelError."""
    try:
        bits = np.unpackbits(np.array(said, dtype=np.uint8))
        values = _unpacked_bytes(bits, size[0] * size[1] * _CHANNELS)
    except (ValueError, TypeError, OverflowError) as error:
        raise LabelError(f"its mask cannot be read: {error}") from error
    return rings(values.reshape(size[1], size[0], _CHANNELS)[..., -1] > 0)


def rings(mask: Mask, left: int = 0, top: int = 0) -> list[list[float]]:
    """The outer ring of each part, of the _MOST largest, in pixels; `left`, `top`: where the mask lies. Raises
    LabelError where it covers nothing."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise LabelError("its mask covers nothing")
    covered = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    step = math.ceil(max(covered.shape) / _FINEST)
    found = _outlines(covered, step)
    if not found:  # all of it is thinner than half a step
        step = 1
        found = _outlines(covered, step)
    corner = np.array([left + columns[0], top + rows[0]])
    return [simplify_ring((step * outline + corner).ravel().tolist(), step * _TOLERANCE) for outline in found]


def _outlines(mask: Mask, step: int) -> list[npt.NDArray[np.float64]]:
    """The outer rings of the largest parts, [points, 2], by the means of `step` × `step` pixels, which are the unit."""
    height, width = mask.shape
    whole = np.pad(mask, ((step, step + -height % step), (step, step + -width % step)))  # a free margin all around
    means = np.asarray(Image.fromarray(whole.view(np.uint8) * 255).reduce(step))
    contours = contourpy.contour_generator(z=means, fill_type=contourpy.FillType.ChunkCombinedOffsetOffset)
    filled: Any = contours.filled(127.5, np.inf)  # a list each, of one chunk
    (points,), (offsets,), (parts,) = filled
    if points is None:
        return []
    # Of each part the outer ring, without its first point once more.
    first, last = offsets[parts[:-1]], offsets[parts[:-1] + 1] - 1
    x, y = points.T
    swept = np.concatenate([[0], np.cumsum(x[:-1] * y[1:] - x[1:] * y[:-1])])
    largest = np.sort(np.argsort(-np.abs(swept[last] - swept[first]), kind="stable")[:_MOST])
    # A sample stands for the middle of its pixels, half a step inside; the margin shifted everything by one.
    return [points[first[i] : last[i]] - 0.5 for i in largest]


def _unpacked(counts: Any, size: Size) -> Mask:
    """The mask of run lengths, column by column."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it does without OpenCV
        from supervision import rle_to_mask  # which takes a second to import

    try:
        return rle_to_mask(counts, size)
    except (ValueError, TypeError, OverflowError) as error:
        raise LabelError(f"its mask cannot be read: {error}") from error


def _unpacked_bytes(bits: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """What rle-pack packed: `count` bytes. Raises ValueError where there are others or fewer."""
    place = 0

    def take(width: int) -> int:
        nonlocal place
        place += width
        if place > len(bits):
            raise ValueError("it is cut short")
        return int("".join(map(str, bits[place - width : place])), 2)

    given, word = take(32), take(5) + 1
    if (given, word) != (count, 8):
        raise ValueError(f"it has {given} values of {word} bits, not {count} of 8")
    widths = [take(4) + 1 for _ in range(4)]
    found, filled = np.empty(count, np.uint8), 0
    while filled < count:
        alike, length = take(1), 1 + take(widths[take(2)])
        if filled + length > count:
            raise ValueError("it has too many values")
        if alike:
            found[filled : filled + length] = take(word)
        else:
            if place + length * word > len(bits):
                raise ValueError("it is cut short")
            found[filled : filled + length] = np.packbits(bits[place : place + length * word])
            place += length * word
        filled += length
    return found
