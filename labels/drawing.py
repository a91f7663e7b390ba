"""Draws annotations on their image with supervision's annotators, and captions below it."""

import textwrap
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont, ImageOps

from labels.geometry import Shape, bounding_box, box_to_ring, to_points
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # supervision warns that OpenCV is missing, which it does not need
    import supervision as sv
    from supervision.config import ORIENTED_BOX_COORDINATES

# Dark enough for white text, and far enough apart to be distinguished.
_PALETTE = sv.ColorPalette.from_hex(
    ["#d1373f", "#2767c4", "#1f8a4c", "#b2560d", "#7b3fb5", "#0d8089", "#b62d7d", "#5b6b1d", "#4a4fc9", "#8a4b2a"]
)
_DEJAVU = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # installed with supervision's matplotlib
# Where systems have fonts for the scripts that DejaVu lacks.
_WIDE_FONTS = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)
_MIN_SIDE, _MAX_SIDE = 320, 2048  # pixels of the longer side; on a smaller image, labels would cover everything
_MAX_LABEL = 48  # characters: the description of a region can be a sentence
_MARGIN, _TEXT_COLOR, _PAGE_COLOR, _LINE_COLOR = 0.6, "#1c2330", "#ffffff", "#d8dde5"


def draw_annotations(image: Image.Image, annotations: Sequence[Annotation], max_side: int = _MAX_SIDE) -> Image.Image:
    """Returns a new RGB image with shapes and their labels drawn on it, and texts below it. Each label has one color.

    Coordinates are pixels of `image`. A very small or large image is scaled so that its longer side is 320 or
    `max_side` pixels.
    """
    longer = max(image.size)
    scale = min(max(longer, _MIN_SIDE), max_side) / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    canvas = image.convert("RGB")
    if size != canvas.size:
        canvas = canvas.resize(size, Image.Resampling.LANCZOS)
    shapes = [annotation for annotation in annotations if not isinstance(annotation, Text)]
    if shapes:
        canvas = _draw_shapes(canvas, shapes, scale)
    return _add_text_below(canvas, "\n".join(each.label for each in annotations if isinstance(each, Text)))


def draw_contact_sheet(images: Sequence[Image.Image], columns: int = 4, width: int = 400, gap: int = 16) -> Image.Image:
    """Returns the images in a grid. Each is scaled to at most `width` × 1.5 · `width` pixels; `gap` is in pixels."""
    cells = [ImageOps.contain(image.convert("RGB"), (width, width * 3 // 2)) for image in images]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    across = min(columns, max(len(cells), 1))
    sheet = Image.new("RGB", (across * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), "#eef1f5")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for i, cell in enumerate(row):
            sheet.paste(cell, (gap + i * (width + gap) + (width - cell.width) // 2, top))
        top += height + gap
    return sheet


def find_font(text: str) -> Path:
    """Returns an installed font with all letters of `text`, or else the one with the fewest missing letters."""
    wanted = {ord(c) for c in text if not c.isspace()}
    if not wanted - _read_letters(_DEJAVU):
        return _DEJAVU
    fonts = [_DEJAVU, *(path for path in map(Path, _WIDE_FONTS) if path.exists())]
    return min(fonts, key=lambda path: len(wanted - _read_letters(path)))


@cache
def _read_letters(font: Path) -> frozenset[int]:
    return frozenset(TTFont(font, fontNumber=0, lazy=True).getBestCmap())


def _draw_shapes(canvas: Image.Image, shapes: Sequence[Shape], scale: float) -> Image.Image:
    unit = max(canvas.size) / 640  # lines and letters grow with the image
    thickness = max(2, round(2.5 * unit))
    names = list(dict.fromkeys(shape.label for shape in shapes))
    detections = _to_detections(shapes, names, scale)
    canvas = _draw_polygons(canvas, shapes, names, scale, thickness)
    for kind, annotator in (
        (Box, sv.BoxAnnotator(_PALETTE, thickness)),
        (Quad, sv.OrientedBoxAnnotator(_PALETTE, thickness)),
    ):
        if chosen := [i for i, shape in enumerate(shapes) if isinstance(shape, kind)]:
            canvas = annotator.annotate(canvas, detections[chosen])
    named = [i for i, shape in enumerate(shapes) if _format_label(shape)]
    labels = sv.RichLabelAnnotator(
        color=_PALETTE,
        font_path=str(find_font("".join(names))),
        font_size=max(11, round(15 * unit)),
        text_padding=max(3, round(4 * unit)),
        border_radius=max(2, round(3 * unit)),
        smart_position=True,
    )
    return labels.annotate(canvas, detections[named], [_format_label(shapes[i]) for i in named]) if named else canvas


def _draw_polygons(
    canvas: Image.Image, shapes: Sequence[Shape], names: Sequence[str], scale: float, thickness: int
) -> Image.Image:
    # Ring by ring: supervision's polygon annotator traces masks, each as large as the image, and loses thin ones.
    pixels = np.asarray(canvas)[:, :, ::-1].copy()  # supervision draws in BGR
    for shape in shapes:
        if isinstance(shape, Polygon):
            color = _PALETTE.by_idx(names.index(shape.label))
            for ring in _to_arrays(shape):
                points = np.rint(ring * scale).astype(np.int32)
                pixels = sv.draw_filled_polygon(pixels, points, color, opacity=0.4)
                pixels = sv.draw_polygon(pixels, points, color, thickness)
    return Image.fromarray(pixels[:, :, ::-1])


def _to_detections(shapes: Sequence[Shape], names: Sequence[str], scale: float) -> sv.Detections:
    """Converts the shapes for supervision. Each gets four corners, because supervision places labels by them."""
    boxes, corners = np.zeros((len(shapes), 4)), np.zeros((len(shapes), 4, 2))
    for i, shape in enumerate(shapes):
        box = bounding_box(shape)
        boxes[i] = np.multiply(box, scale)
        corners[i] = np.multiply(to_points(shape.quad if isinstance(shape, Quad) else box_to_ring(box)), scale)
    classes = np.array([names.index(shape.label) for shape in shapes])
    return sv.Detections(xyxy=boxes, class_id=classes, data={ORIENTED_BOX_COORDINATES: corners})


def _to_arrays(polygon: Polygon) -> list[np.ndarray]:
    """Returns the rings, [points, 2]."""
    return [np.reshape(ring, (-1, 2)) for ring in polygon.polygons]


def _format_label(shape: Shape) -> str:
    label = textwrap.shorten(shape.label, _MAX_LABEL, placeholder=" …") or shape.label[:_MAX_LABEL]
    return " ".join(filter(None, (label, "" if shape.score is None else f"{shape.score:.0%}")))


def _add_text_below(image: Image.Image, text: str) -> Image.Image:
    """Returns the image with lines of text below it, on white; the image itself if there is no text."""
    if not text.strip():
        return image
    size = max(13, round(max(image.size) / 640 * 17))
    font = ImageFont.truetype(str(find_font(text)), size)
    letters = max(8, int((image.width - 2 * _MARGIN * size) / font.getlength("n")))
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""]]
    step = round(size * 1.35)
    margin = round(_MARGIN * size)
    page = Image.new("RGB", (image.width, image.height + len(lines) * step + 2 * margin), _PAGE_COLOR)
    page.paste(image, (0, 0))
    pen = ImageDraw.Draw(page)
    pen.line((0, image.height, image.width, image.height), fill=_LINE_COLOR)
    for i, line in enumerate(lines):
        pen.text((margin, image.height + margin + i * step), line, font=font, fill=_TEXT_COLOR)
    return page
