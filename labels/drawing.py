"""Annotations drawn on their picture, by supervision's annotators; captions beneath it."""

import textwrap
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont, ImageOps

from prompts.annotations import Annotation, Box, Polygon, Quad, Text

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # that it does without OpenCV, which is as well
    import supervision as sv
    from supervision.config import ORIENTED_BOX_COORDINATES

# Strong enough for white letters on each, and far enough apart to tell neighbours.
_PALETTE = sv.ColorPalette.from_hex(
    ["#d1373f", "#2767c4", "#1f8a4c", "#b2560d", "#7b3fb5", "#0d8089", "#b62d7d", "#5b6b1d", "#4a4fc9", "#8a4b2a"]
)
_DEJAVU = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # comes with supervision's matplotlib
# Where systems keep fonts for the scripts that DejaVu lacks.
_WIDE = (
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "C:/Windows/Fonts/msyh.ttc",
)
_LEAST, _MOST = 320, 2048  # pixels of the longer side; on a smaller picture labels would cover everything
_LABEL = 48  # letters of a label; the caption of a region can be a sentence
_MARGIN, _INK, _PAPER, _EDGE = 0.6, "#1c2330", "#ffffff", "#d8dde5"


def draw(image: Image.Image, annotations: Sequence[Annotation], most: int = _MOST) -> Image.Image:
    """A new RGB picture with boxes, quads and polygons drawn on it, labels at them, and texts beneath.

    Coordinates are pixels of `image`. What is very small or large comes back with its longer side 320 or `most` pixels.
    One colour a label.
    """
    longer = max(image.size)
    scale = min(max(longer, _LEAST), most) / longer
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    scene = image.convert("RGB")
    if size != scene.size:
        scene = scene.resize(size, Image.Resampling.LANCZOS)
    shapes = [note for note in annotations if not isinstance(note, Text)]
    if shapes:
        scene = _with_shapes(scene, shapes, scale)
    return beneath(scene, "\n".join(note.label for note in annotations if isinstance(note, Text)))


def _with_shapes(scene: Image.Image, shapes: Sequence[Box | Quad | Polygon], scale: float) -> Image.Image:
    unit = max(scene.size) / 640  # lines and letters grow with the picture
    thickness = max(2, round(2.5 * unit))
    names = list(dict.fromkeys(note.label for note in shapes))
    everything = _detections(shapes, names, scale)
    scene = _with_polygons(scene, shapes, names, scale, thickness)
    for kind, annotator in (
        (Box, sv.BoxAnnotator(_PALETTE, thickness)),
        (Quad, sv.OrientedBoxAnnotator(_PALETTE, thickness)),
    ):
        if chosen := [i for i, note in enumerate(shapes) if isinstance(note, kind)]:
            scene = annotator.annotate(scene, everything[chosen])
    named = [i for i, note in enumerate(shapes) if _caption(note)]
    labels = sv.RichLabelAnnotator(
        color=_PALETTE,
        font_path=str(font_for("".join(names))),
        font_size=max(11, round(15 * unit)),
        text_padding=max(3, round(4 * unit)),
        border_radius=max(2, round(3 * unit)),
        smart_position=True,
    )
    return labels.annotate(scene, everything[named], [_caption(shapes[i]) for i in named]) if named else scene


def _with_polygons(
    scene: Image.Image, shapes: Sequence[Box | Quad | Polygon], names: Sequence[str], scale: float, thickness: int
) -> Image.Image:
    # Ring by ring: supervision's polygon annotator traces masks, each as large as the picture, and loses thin ones.
    pixels = np.asarray(scene)[:, :, ::-1].copy()  # its drawing functions have blue first
    for note in shapes:
        if isinstance(note, Polygon):
            color = _PALETTE.by_idx(names.index(note.label))
            for ring in _rings(note):
                points = np.rint(ring * scale).astype(np.int32)
                pixels = sv.draw_filled_polygon(pixels, points, color, opacity=0.4)
                pixels = sv.draw_polygon(pixels, points, color, thickness)
    return Image.fromarray(pixels[:, :, ::-1])


def contact_sheet(pictures: Sequence[Image.Image], columns: int = 4, width: int = 400, gap: int = 16) -> Image.Image:
    """Pictures side by side, each up to `width` pixels wide and a half more high, in rows as high as their highest."""
    cells = [ImageOps.contain(picture.convert("RGB"), (width, width * 3 // 2)) for picture in pictures]
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


def beneath(image: Image.Image, text: str) -> Image.Image:
    """The picture with lines of text under it, on white; the picture itself where there is no text."""
    if not text.strip():
        return image
    size = max(13, round(max(image.size) / 640 * 17))
    font = ImageFont.truetype(str(font_for(text)), size)
    letters = max(8, int((image.width - 2 * _MARGIN * size) / font.getlength("n")))
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, letters) or [""]]
    step = round(size * 1.35)
    margin = round(_MARGIN * size)
    page = Image.new("RGB", (image.width, image.height + len(lines) * step + 2 * margin), _PAPER)
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    draw.line((0, image.height, image.width, image.height), fill=_EDGE)
    for i, line in enumerate(lines):
        draw.text((margin, image.height + margin + i * step), line, font=font, fill=_INK)
    return page


def font_for(text: str) -> Path:
    """A font with all letters of `text` where this machine has one, else the one with most."""
    wanted = {ord(c) for c in text if not c.isspace()}
    if not wanted - _letters(_DEJAVU):
        return _DEJAVU
    fonts = [_DEJAVU, *(path for path in map(Path, _WIDE) if path.exists())]
    return min(fonts, key=lambda path: len(wanted - _letters(path)))


@cache
def _letters(font: Path) -> frozenset[int]:
    return frozenset(TTFont(font, fontNumber=0, lazy=True).getBestCmap())


def _caption(note: Annotation) -> str:
    label = textwrap.shorten(note.label, _LABEL, placeholder=" …") or note.label[:_LABEL]
    return " ".join(filter(None, (label, "" if note.score is None else f"{note.score:.0%}")))


def _detections(shapes: Sequence[Box | Quad | Polygon], names: Sequence[str], scale: float) -> sv.Detections:
    """Shapes as supervision has them. All have four corners: labels are placed by those."""
    boxes, corners = np.zeros((len(shapes), 4)), np.zeros((len(shapes), 4, 2))
    for i, note in enumerate(shapes):
        points = np.concatenate([ring * scale for ring in _rings(note)])
        (x1, y1), (x2, y2) = points.min(0), points.max(0)
        boxes[i] = x1, y1, x2, y2
        corners[i] = points if isinstance(note, Quad) else [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    classes = np.array([names.index(note.label) for note in shapes])
    return sv.Detections(xyxy=boxes, class_id=classes, data={ORIENTED_BOX_COORDINATES: corners})


def _rings(note: Box | Quad | Polygon) -> list[np.ndarray]:
    flat = [note.box] if isinstance(note, Box) else [note.quad] if isinstance(note, Quad) else note.polygons
    return [np.reshape(ring, (-1, 2)) for ring in flat]
