"""Images that are drawn from their labels: each shape has the color of its label."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageDraw

from labels.geometry import bounding_box, to_points
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation, Box, Polygon

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)
COLORS = {"red": RED, "green": GREEN, "blue": BLUE}
BOTH = frozenset((LabelKind.OBJECTS, LabelKind.WORDS))
SIZE = (240, 160)


def paint(size: tuple[int, int], shapes: tuple[tuple[str, str, tuple[float, ...]], ...]) -> Image.Image:
    """Draws shapes (color, form, coordinates) on black."""
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    for color, form, points in shapes:
        x1, y1, *rest = points
        if form == "polygon":
            draw.polygon([(x - 0.5, y - 0.5) for x, y in to_points(points)], COLORS[color])
        else:
            (draw.ellipse if form == "ellipse" else draw.rectangle)((x1, y1, rest[0] - 1, rest[1] - 1), COLORS[color])
    return image


def make_image(
    *annotations: Annotation, form: str = "rectangle", size: tuple[int, int] = SIZE,
    complete: frozenset[LabelKind] = BOTH, name: str = "a.png",
) -> LabeledImage:  # fmt: skip
    shapes = tuple(
        (annotation.label, "polygon", tuple(annotation.polygons[0]))
        if isinstance(annotation, Polygon)
        else (annotation.label, form, annotation.box)
        for annotation in annotations
        if isinstance(annotation, Box | Polygon)
    )
    return LabeledImage(name, name, *size, annotations, partial(paint, size, shapes), complete)


def make_rngs(count: int = 40) -> Iterator[np.random.Generator]:
    return (np.random.default_rng(seed) for seed in range(count))


def find_color(image: Image.Image, color: str) -> np.ndarray:
    """Returns the mask [h, w] of the pixels that are nearest to a color."""
    pixels = np.asarray(image).astype(int)
    channel = list(COLORS).index(color)
    return (pixels[..., channel] > 125) & (np.delete(pixels, channel, axis=-1).max(axis=-1) < 125)


def find_extent(image: Image.Image, color: str) -> tuple[int, int, int, int] | None:
    mask = find_color(image, color)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


TWO = (Box(label="red", box=(20, 30, 90, 80)), Box(label="green", box=(120, 50, 200, 140)))


def check_boxes(changed: LabeledImage, tolerance: float = 1.5, colors: tuple[str, ...] = ("red", "green")) -> None:
    image = changed.open()
    assert image.size == changed.size
    labels = {
        annotation.label: bounding_box(annotation)
        for annotation in changed.annotations
        if isinstance(annotation, Box | Polygon)
    }
    for color in colors:
        extent = find_extent(image, color)
        if color in labels:
            assert extent == pytest.approx(labels[color], abs=tolerance), color
        elif extent is not None:
            # An object without a label is hardly visible.
            assert find_color(image, color).sum() < 0.3 * 80 * 90
