"""Converts masks that files store as run lengths to the outer rings of their parts.

Holes are filled, because an answer cannot have any. A mask with more pixels than locations can distinguish is reduced
to squares, each with the share that the mask covers. The outline is then off by at most a fifth of a square, and parts
thinner than half a square are lost.
"""

import ast
import math
import re
import warnings
from typing import Any

import contourpy
import numpy as np
import numpy.typing as npt
from PIL import Image

from labels.geometry import simplify_ring
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.documents import Element

Mask = npt.NDArray[np.bool_]
"""[height, width]"""

_TOLERANCE = 0.3  # pixels between a ring and the mask's edge; with half a pixel, thin objects lose half their area
_BYTES = re.compile(r"b(['\"])(?:[0-\[\]-o]|\\\\)*\1")
_CHANNELS = 4  # red, green, blue, alpha
_MAX_SQUARES = 2000  # along the longer side: two for each location bin
_MAX_PARTS = 100  # an answer holds 33


def decode_coco_mask(segmentation: dict[str, Any], size: Size) -> list[list[float]]:
    """Returns the rings of COCO's `counts`, a list or compressed text, in column order. Raises LabelError.

    Python scripts also write the text of its bytes: b'…'.
    """
    if segmentation.get("size") != [size[1], size[0]]:
        raise LabelError(f"its mask's size is {segmentation.get('size')!r}, not the height and width of its image")
    counts = segmentation.get("counts")
    if isinstance(counts, str) and _BYTES.fullmatch(counts):
        counts = ast.literal_eval(counts)
    return trace_mask(_decode_run_lengths(counts, size))


def decode_cvat_mask(element: Element, size: Size) -> list[list[float]]:
    """Returns the rings of CVAT's `rle`, in row order within left, top, width and height. Raises LabelError."""
    sides = ("left", "top", "width", "height")
    left, top, width, height = (int(checks.check_number(element.get(side))) for side in sides)
    if min(left, top) < 0 or min(width, height) < 1 or left + width > size[0] or top + height > size[1]:
        raise LabelError(f"its mask lies outside the image of {size[0]}×{size[1]} pixels")
    return trace_mask(_decode_run_lengths(element.get("rle", "").split(","), (height, width)).T, left, top)


def decode_label_studio_mask(rle: object, size: Size) -> list[list[float]]:
    """Returns the rings of Label Studio's `rle`: the bytes of all pixels' red, green, blue and alpha in rle-pack
    (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack). Pixels with any alpha are covered.

    Raises LabelError.
    """
    try:
        bits = np.unpackbits(np.array(rle, dtype=np.uint8))
        values = _decode_rle_pack(bits, size[0] * size[1] * _CHANNELS)
    except (ValueError, TypeError, OverflowError) as error:
        raise LabelError(f"its mask cannot be read: {error}") from error
    return trace_mask(values.reshape(size[1], size[0], _CHANNELS)[..., -1] > 0)


def trace_mask(mask: Mask, left: int = 0, top: int = 0) -> list[list[float]]:
    """Returns the outer rings of the largest parts of a mask, in pixels of the image.

    `left` and `top` are the position of the mask in the image. Raises LabelError if the mask covers nothing.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        raise LabelError("its mask covers nothing")
    covered = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    step = math.ceil(max(covered.shape) / _MAX_SQUARES)
    outlines = _trace_squares(covered, step)
    if not outlines:  # everything is thinner than half a square
        step = 1
        outlines = _trace_squares(covered, step)
    corner = np.array([left + columns[0], top + rows[0]])
    return [simplify_ring((step * outline + corner).ravel().tolist(), step * _TOLERANCE) for outline in outlines]


def _trace_squares(mask: Mask, step: int) -> list[npt.NDArray[np.float64]]:
    """Returns the outer rings of the largest parts, [points, 2], in units of squares of `step` × `step` pixels."""
    height, width = mask.shape
    padded = np.pad(mask, ((step, step + -height % step), (step, step + -width % step)))  # a margin on all sides
    means = np.asarray(Image.fromarray(padded.view(np.uint8) * 255).reduce(step))
    contours = contourpy.contour_generator(z=means, fill_type=contourpy.FillType.ChunkCombinedOffsetOffset)
    filled: Any = contours.filled(127.5, np.inf)  # three lists with one chunk each
    (points,), (offsets,), (parts,) = filled
    if points is None:
        return []
    # The outer ring of each part, without the repeated first point.
    first, last = offsets[parts[:-1]], offsets[parts[:-1] + 1] - 1
    x, y = points.T
    swept = np.concatenate([[0], np.cumsum(x[:-1] * y[1:] - x[1:] * y[:-1])])
    largest = np.sort(np.argsort(-np.abs(swept[last] - swept[first]), kind="stable")[:_MAX_PARTS])
    # A value belongs to the center of its square, half a square inside; the margin shifts everything by one.
    return [points[first[i] : last[i]] - 0.5 for i in largest]


def _decode_run_lengths(counts: Any, size: Size) -> Mask:
    """Returns the mask of run lengths in column order. Raises LabelError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # supervision warns that OpenCV is missing
        from supervision import rle_to_mask  # takes a second to import

    try:
        return rle_to_mask(counts, size)
    except (ValueError, TypeError, OverflowError) as error:
        raise LabelError(f"its mask cannot be read: {error}") from error


def _decode_rle_pack(bits: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Returns the `count` bytes that rle-pack encoded. Raises ValueError if there are more or fewer."""
    position = 0

    def take(width: int) -> int:
        nonlocal position
        position += width
        if position > len(bits):
            raise ValueError("it is cut short")
        return int("".join(map(str, bits[position - width : position])), 2)

    total, word = take(32), take(5) + 1
    if (total, word) != (count, 8):
        raise ValueError(f"it has {total} values of {word} bits, not {count} of 8")
    widths = [take(4) + 1 for _ in range(4)]
    values, filled = np.empty(count, np.uint8), 0
    while filled < count:
        is_run, length = take(1), 1 + take(widths[take(2)])
        if filled + length > count:
            raise ValueError("it has too many values")
        if is_run:
            values[filled : filled + length] = take(word)
        else:
            if position + length * word > len(bits):
                raise ValueError("it is cut short")
            values[filled : filled + length] = np.packbits(bits[position : position + length * word])
            position += length * word
        filled += length
    return values
