"""One synthetic scene from one seed: glyphs and words on a background, with what is exactly where."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

import numpy as np
from PIL import Image, ImageFilter

from labels.geometry import common
from seedling.scenes import colors, glyphs, lettering
from seedling.scenes.backgrounds import background
from seedling.scenes.outlines import outlines
from seedling.scenes.scene import Object, Scene, Word

Box = tuple[float, float, float, float]

SHAPES = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3), (16, 9), (1, 2))
SHAPE_SHARES = (0.28, 0.24, 0.18, 0.12, 0.08, 0.06, 0.04)
VISIBLE = 0.6
"""The least share of an object that others and the edge leave visible."""
HUE_TURN = np.array(
    # The luma-keeping rotation of hue: RGB @ (A + cos·B + sin·C), as in SVG's feColorMatrix hueRotate.
    [
        [[0.213, 0.213, 0.213], [0.715, 0.715, 0.715], [0.072, 0.072, 0.072]],
        [[0.787, -0.213, -0.213], [-0.715, 0.285, -0.715], [-0.072, -0.072, 0.928]],
        [[-0.213, 0.143, -0.787], [-0.715, 0.140, 0.715], [0.928, -0.283, 0.072]],
    ]
)


@dataclass
class Placed:
    """A transformed glyph on the canvas, before others cover it."""

    glyph: glyphs.Glyph
    picture: Image.Image
    """RGBA."""
    left: int
    top: int
    alpha: np.ndarray
    """(h, w) visible alpha 0-255; others take away from it."""
    own: int
    """Pixels of more than half opacity before anything was taken away."""

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.picture.width, self.top + self.picture.height


@cache
def _premultiplied(glyph: glyphs.Glyph, halved: bool) -> Image.Image:
    """The rendered glyph with premultiplied alpha, so that resizing and turning bleed no black into its edges; `halved`
    spares time where it is drawn small."""
    picture = glyphs.rendered(glyph).convert("RGBa")
    return picture.reduce(2) if halved else picture


def _transformed(rng: np.random.Generator, glyph: glyphs.Glyph, side: float) -> Image.Image:
    """The glyph `side` pixels long, mirrored half of the time, some turned, slightly stretched, its colours varied."""
    picture = _premultiplied(glyph, 2 * side <= glyphs.SIDE)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale, stretch = side / max(picture.size), float(np.exp(rng.uniform(-0.1, 0.1)))
    size = (max(4, round(picture.width * scale * stretch)), max(4, round(picture.height * scale / stretch)))
    picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if rng.random() < 0.4:
        picture = picture.rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR, expand=True)
    picture = picture.convert("RGBA")
    turn = np.deg2rad(rng.uniform(-180, 180) if rng.random() < 0.18 else rng.uniform(-8, 8))
    matrix = np.tensordot([1.0, np.cos(turn), np.sin(turn)], HUE_TURN, axes=1)
    gain, lift = rng.uniform(0.88, 1.12), rng.uniform(-14, 14)
    pixels = np.array(picture)
    rgb = pixels[..., :3].astype(np.float32) @ (matrix * gain).astype(np.float32) + np.float32(lift)
    pixels[..., :3] = rgb.clip(0, 255)
    rows, columns = (np.flatnonzero((pixels[..., 3] > 127).any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return picture
    return Image.fromarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _stands_out(picture: Image.Image, canvas: Image.Image, left: int, top: int) -> bool:
    """Whether at least 45 % of the glyph's pixels differ from the ground under them by 40 of 255 in some channel."""
    size = (20, 20)
    over = np.asarray(picture.resize(size, Image.Resampling.NEAREST)).astype(np.int16)
    box = (left, top, left + picture.width, top + picture.height)
    under = np.asarray(canvas.crop(box).resize(size, Image.Resampling.NEAREST)).astype(np.int16)
    solid = over[..., 3] > 127
    differs = np.abs(over[..., :3] - under).max(axis=-1) > 40
    return bool((differs & solid).sum() >= 0.45 * solid.sum())


def _covered(placed: Sequence[Placed], new: Image.Image, left: int, top: int) -> list[np.ndarray] | None:
    """What `new` leaves visible of each placed object, or None when it leaves too little of one."""
    mask = np.asarray(new.getchannel("A"))
    remaining = []
    for item in placed:
        x1, y1 = max(left, item.left), max(top, item.top)
        x2 = min(left + new.width, item.left + item.picture.width)
        y2 = min(top + new.height, item.top + item.picture.height)
        if x1 >= x2 or y1 >= y2:
            remaining.append(item.alpha)
            continue
        alpha = item.alpha.copy()
        hidden = mask[y1 - top : y2 - top, x1 - left : x2 - left] > 127
        alpha[y1 - item.top : y2 - item.top, x1 - item.left : x2 - item.left][hidden] = 0
        if (alpha > 127).sum() < max(VISIBLE * item.own, 1):
            return None
        remaining.append(alpha)
    return remaining


def _glyph(
    rng: np.random.Generator, sets: Sequence[str], placed: Sequence[Placed] = (), twins: float = 0.0
) -> glyphs.Glyph:
    """A category, then a set that has it, then a glyph, each equally likely, so that no large set outweighs; in `twins`
    of all cases the category is one that is `placed` already."""
    twin = placed[int(rng.integers(len(placed)))].glyph.category if twins and placed and rng.random() < twins else None
    while True:
        category = twin or glyphs.CATEGORIES[int(rng.integers(len(glyphs.CATEGORIES)))]
        having = [found[category] for found in map(glyphs.glyph_set, sets) if category in found]
        if having:
            choices = having[int(rng.integers(len(having)))]
            return choices[int(rng.integers(len(choices)))]


def _place(
    rng: np.random.Generator, canvas: Image.Image, placed: list[Placed], words: Sequence[Box], glyph: glyphs.Glyph,
    side: float, crowded: bool,
) -> bool:  # fmt: skip
    """Try to put one object on the canvas and into `placed`, clear of the words and, unless crowded, of the others."""
    picture = _transformed(rng, glyph, side)
    w, h = picture.size
    beyond = 0.15 if rng.random() < 0.06 else 0.0
    for _ in range(12):
        left = int(np.floor(rng.uniform(-beyond * w, max(canvas.width - w * (1 - beyond), 1))))
        top = int(np.floor(rng.uniform(-beyond * h, max(canvas.height - h * (1 - beyond), 1))))
        box = (left, top, left + w, top + h)
        if any(common(box, word) > 0 for word in words):
            continue
        shared = [common(box, item.box) / min(w * h, item.picture.width * item.picture.height) for item in placed]
        if any(share > (0.35 if crowded else 0.0) for share in shared) or not _stands_out(picture, canvas, left, top):
            continue
        alpha = np.array(picture.getchannel("A"))
        own = int((alpha > 127).sum())
        columns, rows = np.arange(left, left + w), np.arange(top, top + h)
        alpha[(rows < 0) | (rows >= canvas.height)] = 0
        alpha[:, (columns < 0) | (columns >= canvas.width)] = 0
        remaining = _covered(placed, picture, left, top)
        if remaining is None or (alpha > 127).sum() < max(VISIBLE * own, 12):
            continue
        for item, rest in zip(placed, remaining, strict=True):
            item.alpha = rest
        canvas.paste(picture, (left, top), picture)
        placed.append(Placed(glyph, picture, left, top, alpha, own))
        return True
    return False


def _described(item: Placed, picture: Image.Image) -> Object:
    """The object as it is seen in the finished picture."""
    visible = item.alpha > 127
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    box = (
        float(item.left + columns[0]),
        float(item.top + rows[0]),
        float(item.left + columns[-1] + 1),
        float(item.top + rows[-1] + 1),
    )
    rings = [(ring + np.array([item.left, item.top])).ravel().round(2).tolist() for ring in outlines(item.alpha)]
    if not rings:
        # Only threads thinner than the outline's grid are left: the box is the best polygon.
        rings = [[box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]]
    step = max(1, round((visible.size / 1200) ** 0.5))
    seen = np.asarray(picture.crop(item.box))
    pixels = seen[::step, ::step][visible[::step, ::step]]
    if len(pixels) == 0:
        pixels = seen[visible]
    return Object(item.glyph.category, item.glyph.path, box, rings, colors.measure_color_shares(pixels))


def _words(rng: np.random.Generator, canvas: Image.Image, count: int) -> tuple[list[Word], list[Box]]:
    """(the words drawn, the boxes that objects must keep clear of)."""
    words: list[Word] = []
    taken: list[Box] = []
    for _ in range(count):
        item = lettering.lettering(rng, canvas.size)
        around = item.corners(item.pad + 3)
        reach = around.max(axis=0) + 1
        room = np.array(canvas.size) - 2 * reach
        if (room < 0).any():
            continue
        for _ in range(15):
            centre = reach + rng.random(2) * room
            low, high = around.min(axis=0) + centre, around.max(axis=0) + centre
            box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            if not any(common(box, other) > 0 for other in taken):
                words.append(lettering.paint(rng, canvas, item, (float(centre[0]), float(centre[1]))))
                taken.append(box)
                break
    return words, taken


def _degraded(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """One or two mild faults of real pictures: grain, blur, JPEG blocks, few pixels, flat contrast."""
    for fault in rng.choice(5, size=int(rng.integers(1, 3)), replace=False):
        if fault == 0:
            grain = rng.normal(0, rng.uniform(5, 16), (picture.height, picture.width, 1)).astype(np.float32)
            picture = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
        elif fault == 1:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8) * min(picture.size) / 192))
        elif fault == 2:
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=int(rng.integers(25, 70)))
            picture = Image.open(file).convert("RGB")
        elif fault == 3:
            share = rng.uniform(0.55, 0.9) if min(picture.size) > 240 else rng.uniform(0.75, 0.95)
            small = (round(picture.width * share), round(picture.height * share))
            picture = picture.resize(small, Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BILINEAR)
        else:
            gain = rng.uniform(0.6, 0.9)
            lift = rng.uniform(0, 255 * (1 - gain))
            picture = picture.point([round(v * gain + lift) for v in range(256)] * 3)
    return picture


def _uncovered(picture: Image.Image, boxes: Sequence[Box]) -> str | None:
    """The commonest colour outside all of the boxes; None where they cover everything."""
    free = np.ones((picture.height, picture.width), bool)
    for x1, y1, x2, y2 in boxes:
        free[max(int(y1), 0) : ceil(y2), max(int(x1), 0) : ceil(x2)] = False
    pixels = np.asarray(picture)[free]
    return colors.find_main_color(pixels[:: max(1, len(pixels) // 600)]) if len(pixels) else None


def draw_scene(
    seed: int,
    *,
    sets: Sequence[str] = glyphs.TRAINING_SETS,
    objects: tuple[int, int] = (1, 4),
    words: tuple[int, int] = (0, 2),
    size: tuple[int, int] | None = None,
    hard: float = 0.15,
    twins: float = 0.0,
) -> Scene:
    """The scene of this seed: the same everywhere for the same arguments and glyph files.

    `sets` are glyph sets as in `glyphs/`; `objects` and `words` the least and the most of each, equally likely. A word
    or an object that fits nowhere is left out, so that small or narrow canvases may hold fewer. `size` is (width,
    height) in pixels; without it the short side is 160-480 and the aspect 1:2 to 16:9. `hard` is the share of scenes
    that are blurred, noisy or compressed, `twins` that of the objects which repeat the kind of another. Raises
    ValueError for a negative seed, FileNotFoundError for an unknown set.
    """
    rng = np.random.default_rng(seed)
    if size is None:
        short = float(np.exp(rng.uniform(np.log(160), np.log(480))))
        across, down = SHAPES[int(rng.choice(len(SHAPES), p=SHAPE_SHARES))]
        size = (round(short * across / min(across, down)), round(short * down / min(across, down)))
    canvas, ground = background(rng, size)
    count = int(rng.integers(objects[0], objects[1] + 1))
    drawn, taken = _words(rng, canvas, int(rng.integers(words[0], words[1] + 1)))
    placed: list[Placed] = []
    crowded = rng.random() < 0.2
    largest = 0.5 if count < 3 else 0.42
    for _ in range(count):
        glyph = _glyph(rng, sets, placed, twins)
        side = rng.uniform(0.15, largest) * (size[0] * size[1]) ** 0.5
        for attempt in range(8):
            if _place(rng, canvas, placed, taken, glyph, min(side, 0.85 * min(size)), crowded):
                break
            # It may be too big for the gaps or too like the ground: smaller, and another one every other time.
            side = max(0.82 * side, 0.13 * (size[0] * size[1]) ** 0.5)
            if attempt % 2:
                glyph = _glyph(rng, sets, placed, twins)
    picture = canvas
    if rng.random() < hard:
        picture = _degraded(rng, canvas)
        ground = _uncovered(picture, [item.box for item in placed] + taken) or ground
    things = sorted((_described(item, picture) for item in placed), key=lambda thing: thing.box)
    lines = sorted(drawn, key=lambda word: (word.box[1], word.box[0]))
    return Scene(picture, tuple(things), tuple(lines), ground)
