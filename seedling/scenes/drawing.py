"""Draws one synthetic scene from one seed: glyphs and words on a background, with exact ground truth."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
from PIL import Image, ImageFilter

from labels.geometry import intersection_area
from seedling.scenes import colors, glyphs, lettering
from seedling.scenes.backgrounds import draw_background
from seedling.scenes.outlines import trace_outlines
from seedling.scenes.scene import Scene, SceneObject, SceneWord

Box = tuple[float, float, float, float]

ASPECTS = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (1, 2))
ASPECT_SHARES = (0.28, 0.24, 0.18, 0.12, 0.08, 0.06, 0.04)
MIN_VISIBLE_SHARE = 0.6
"""The share of an object that must stay visible behind others and at the image border."""
HUE_ROTATION = np.array(
    # Rotates the hue and keeps the luma: RGB @ (A + cos·B + sin·C), as in SVG's feColorMatrix hueRotate.
    [
        [[0.213, 0.213, 0.213], [0.715, 0.715, 0.715], [0.072, 0.072, 0.072]],
        [[0.787, -0.213, -0.213], [-0.715, 0.285, -0.715], [-0.072, -0.072, 0.928]],
        [[-0.213, 0.143, -0.787], [-0.715, 0.140, 0.715], [0.928, -0.283, 0.072]],
    ]
)


@dataclass
class PlacedObject:
    """A transformed glyph on the canvas."""

    glyph: glyphs.Glyph
    image: Image.Image
    """RGBA."""
    left: int
    top: int
    alpha: np.ndarray
    """(h, w) visible alpha 0-255; set to 0 where later objects cover this one."""
    full_area: int
    """Number of pixels with more than half opacity before anything was covered."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.image.width, self.top + self.image.height


def draw_scene(
    seed: int,
    *,
    sets: Sequence[str] = glyphs.TRAINING_SETS,
    objects: tuple[int, int] = (1, 4),
    words: tuple[int, int] = (0, 2),
    size: tuple[int, int] | None = None,
    degraded_share: float = 0.15,
    repeat_share: float = 0.0,
) -> Scene:
    """Returns the scene of this seed: always the same for the same arguments and glyph files.

    `sets` are glyph sets as in `glyphs/`. `objects` and `words` are the minimum and maximum of each; all counts are
    equally likely. A word or an object that fits nowhere is left out, so small or narrow canvases may hold fewer.
    `size` is (width, height) in pixels; without it the short side is 160-480 and the aspect ratio 1:2 to 16:9.
    `degraded_share` of the scenes are blurred, noisy or compressed. `repeat_share` of the objects repeat a category
    that is already in the scene. Raises ValueError for a negative seed, FileNotFoundError for an unknown set.
    """
    rng = np.random.default_rng(seed)
    if size is None:
        short = float(np.exp(rng.uniform(np.log(160), np.log(480))))
        across, down = ASPECTS[int(rng.choice(len(ASPECTS), p=ASPECT_SHARES))]
        size = (round(short * across / min(across, down)), round(short * down / min(across, down)))
    canvas, background = draw_background(rng, size)
    count = int(rng.integers(objects[0], objects[1] + 1))
    drawn_words, word_boxes = _draw_words(rng, canvas, int(rng.integers(words[0], words[1] + 1)))
    placed: list[PlacedObject] = []
    crowded = rng.random() < 0.2
    largest = 0.5 if count < 3 else 0.42
    for _ in range(count):
        glyph = _pick_glyph(rng, sets, placed, repeat_share)
        side = rng.uniform(0.15, largest) * (size[0] * size[1]) ** 0.5
        for attempt in range(8):
            if _try_to_place(rng, canvas, placed, word_boxes, glyph, min(side, 0.85 * min(size)), crowded):
                break
            # The object may be too large for the gaps or too similar to the background: shrink it, and take another
            # glyph at every second attempt.
            side = max(0.82 * side, 0.13 * (size[0] * size[1]) ** 0.5)
            if attempt % 2:
                glyph = _pick_glyph(rng, sets, placed, repeat_share)
    image = canvas
    if rng.random() < degraded_share:
        image = degrade(rng, canvas)
        background = _find_uncovered_color(image, [item.box for item in placed] + word_boxes) or background
    scene_objects = sorted((to_scene_object(item, image) for item in placed), key=lambda item: item.box)
    scene_words = sorted(drawn_words, key=lambda word: (word.box[1], word.box[0]))
    return Scene(image, tuple(scene_objects), tuple(scene_words), background)


@cache
def _render_premultiplied(glyph: glyphs.Glyph, halved: bool) -> Image.Image:
    """Returns the glyph with premultiplied alpha, so that resizing and rotating leave no black edges.

    `halved` saves time for small objects.
    """
    image = glyphs.render_glyph(glyph).convert("RGBa")
    return image.reduce(2) if halved else image


def _transform(rng: np.random.Generator, glyph: glyphs.Glyph, side: float) -> Image.Image:
    """Returns the glyph `side` pixels long, slightly stretched, with varied colors; half are flipped, some rotated."""
    image = _render_premultiplied(glyph, 2 * side <= glyphs.SIDE)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale, stretch = side / max(image.size), float(np.exp(rng.uniform(-0.1, 0.1)))
    size = (max(4, round(image.width * scale * stretch)), max(4, round(image.height * scale / stretch)))
    image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if rng.random() < 0.4:
        image = image.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR, expand=True)
    image = image.convert("RGBA")
    turn = np.deg2rad(rng.uniform(-180, 180) if rng.random() < 0.18 else rng.uniform(-8, 8))
    matrix = np.tensordot([1.0, np.cos(turn), np.sin(turn)], HUE_ROTATION, axes=1)
    gain, lift = rng.uniform(0.88, 1.12), rng.uniform(-14, 14)
    pixels = np.array(image)
    rgb = pixels[..., :3].astype(np.float32) @ (matrix * gain).astype(np.float32) + np.float32(lift)
    pixels[..., :3] = rgb.clip(0, 255)
    rows, columns = (np.flatnonzero((pixels[..., 3] > 127).any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return image
    return Image.fromarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _stands_out(image: Image.Image, canvas: Image.Image, left: int, top: int) -> bool:
    """Returns whether at least 45 % of the glyph's pixels differ from the canvas below by 40 of 255 in some channel."""
    size = (20, 20)
    over = np.asarray(image.resize(size, Image.Resampling.NEAREST)).astype(np.int16)
    box = (left, top, left + image.width, top + image.height)
    under = np.asarray(canvas.crop(box).resize(size, Image.Resampling.NEAREST)).astype(np.int16)
    solid = over[..., 3] > 127
    differs = np.abs(over[..., :3] - under).max(axis=-1) > 40
    return bool((differs & solid).sum() >= 0.45 * solid.sum())


def cover_objects(placed: Sequence[PlacedObject], image: Image.Image, left: int, top: int) -> list[np.ndarray] | None:
    """Returns the visible alpha of each placed object below a new image, or None when too little of one is left."""
    mask = np.asarray(image.getchannel("A"))
    remaining = []
    for item in placed:
        x1, y1 = max(left, item.left), max(top, item.top)
        x2 = min(left + image.width, item.left + item.image.width)
        y2 = min(top + image.height, item.top + item.image.height)
        if x1 >= x2 or y1 >= y2:
            remaining.append(item.alpha)
            continue
        alpha = item.alpha.copy()
        hidden = mask[y1 - top : y2 - top, x1 - left : x2 - left] > 127
        alpha[y1 - item.top : y2 - item.top, x1 - item.left : x2 - item.left][hidden] = 0
        if (alpha > 127).sum() < max(MIN_VISIBLE_SHARE * item.full_area, 1):
            return None
        remaining.append(alpha)
    return remaining


def _pick_glyph(
    rng: np.random.Generator, sets: Sequence[str], placed: Sequence[PlacedObject] = (), repeat_share: float = 0.0
) -> glyphs.Glyph:
    """Picks a category, then a set that has it, then a glyph, so that no large set dominates.

    With probability `repeat_share` the category is one of those already `placed`.
    """
    repeated = None
    if repeat_share and placed and rng.random() < repeat_share:
        repeated = placed[int(rng.integers(len(placed)))].glyph.category
    while True:
        category = repeated or glyphs.CATEGORIES[int(rng.integers(len(glyphs.CATEGORIES)))]
        candidates = [loaded[category] for loaded in map(glyphs.load_glyph_set, sets) if category in loaded]
        if candidates:
            choices = candidates[int(rng.integers(len(candidates)))]
            return choices[int(rng.integers(len(choices)))]


def _try_to_place(
    rng: np.random.Generator, canvas: Image.Image, placed: list[PlacedObject], word_boxes: Sequence[Box],
    glyph: glyphs.Glyph, side: float, crowded: bool,
) -> bool:  # fmt: skip
    """Tries to add one object to the canvas and to `placed`; returns whether it fits.

    Objects keep clear of words, and of each other unless `crowded`.
    """
    image = _transform(rng, glyph, side)
    w, h = image.size
    beyond = 0.15 if rng.random() < 0.06 else 0.0
    for _ in range(12):
        left = int(np.floor(rng.uniform(-beyond * w, max(canvas.width - w * (1 - beyond), 1))))
        top = int(np.floor(rng.uniform(-beyond * h, max(canvas.height - h * (1 - beyond), 1))))
        box = (left, top, left + w, top + h)
        if any(intersection_area(box, word_box) > 0 for word_box in word_boxes):
            continue
        overlaps = [
            intersection_area(box, item.box) / min(w * h, item.image.width * item.image.height) for item in placed
        ]
        if any(overlap > (0.35 if crowded else 0.0) for overlap in overlaps):
            continue
        if not _stands_out(image, canvas, left, top):
            continue
        alpha = np.array(image.getchannel("A"))
        full_area = int((alpha > 127).sum())
        columns, rows = np.arange(left, left + w), np.arange(top, top + h)
        alpha[(rows < 0) | (rows >= canvas.height)] = 0
        alpha[:, (columns < 0) | (columns >= canvas.width)] = 0
        remaining = cover_objects(placed, image, left, top)
        if remaining is None or (alpha > 127).sum() < max(MIN_VISIBLE_SHARE * full_area, 12):
            continue
        for item, rest in zip(placed, remaining, strict=True):
            item.alpha = rest
        canvas.paste(image, (left, top), image)
        placed.append(PlacedObject(glyph, image, left, top, alpha, full_area))
        return True
    return False


def to_scene_object(item: PlacedObject, image: Image.Image) -> SceneObject:
    """Returns the ground truth of a placed object, with its colors in the finished image."""
    visible = item.alpha > 127
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    box = (
        float(item.left + columns[0]),
        float(item.top + rows[0]),
        float(item.left + columns[-1] + 1),
        float(item.top + rows[-1] + 1),
    )
    rings = [(ring + np.array([item.left, item.top])).ravel().round(2).tolist() for ring in trace_outlines(item.alpha)]
    if not rings:
        # Only lines thinner than the outline's raster are left: the box is the best polygon.
        rings = [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]]
    step = max(1, round((visible.size / 1200) ** 0.5))
    region = np.asarray(image.crop(item.box))
    pixels = region[::step, ::step][visible[::step, ::step]]
    if len(pixels) == 0:
        pixels = region[visible]
    return SceneObject(item.glyph.category, item.glyph.path, box, rings, colors.measure_color_shares(pixels))


def _draw_words(rng: np.random.Generator, canvas: Image.Image, count: int) -> tuple[list[SceneWord], list[Box]]:
    """Draws words on the canvas. Returns them, and the boxes that objects must keep clear of."""
    words: list[SceneWord] = []
    boxes: list[Box] = []
    for _ in range(count):
        layout = lettering.lay_out_word(rng, canvas.size)
        around = layout.corners(layout.pad + 3)
        reach = around.max(axis=0) + 1
        room = np.array(canvas.size) - 2 * reach
        if (room < 0).any():
            continue
        for _ in range(15):
            center = reach + rng.random(2) * room
            low, high = around.min(axis=0) + center, around.max(axis=0) + center
            box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            if not any(intersection_area(box, other) > 0 for other in boxes):
                words.append(lettering.paint_word(rng, canvas, layout, (float(center[0]), float(center[1]))))
                boxes.append(box)
                break
    return words, boxes


def degrade(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Adds one or two mild defects of real images: grain, blur, JPEG artifacts, low resolution, low contrast."""
    for defect in rng.choice(5, size=int(rng.integers(1, 3)), replace=False):
        if defect == 0:
            grain = rng.normal(0, rng.uniform(5, 16), (image.height, image.width, 1)).astype(np.float32)
            image = Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))
        elif defect == 1:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8) * min(image.size) / 192))
        elif defect == 2:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=int(rng.integers(25, 70)))
            image = Image.open(file).convert("RGB")
        elif defect == 3:
            share = rng.uniform(0.55, 0.9) if min(image.size) > 240 else rng.uniform(0.75, 0.95)
            small = (round(image.width * share), round(image.height * share))
            image = image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)
        else:
            gain = rng.uniform(0.6, 0.9)
            lift = rng.uniform(0, 255 * (1 - gain))
            image = image.point([round(v * gain + lift) for v in range(256)] * 3)
    return image


def _find_uncovered_color(image: Image.Image, boxes: Sequence[Box]) -> str | None:
    """Returns the most common color outside all boxes, or None when they cover everything."""
    free = np.ones((image.height, image.width), bool)
    for x1, y1, x2, y2 in boxes:
        free[max(int(y1), 0) : ceil(y2), max(int(x1), 0) : ceil(x2)] = False
    pixels = np.asarray(image)[free]
    return colors.find_main_color(pixels[:: max(1, len(pixels) // 600)]) if len(pixels) else None
