"""Pictures from beyond the usual: of things that are none of the 40 kinds, and far wider or higher than others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from seedling.scenes import colors
from seedling.scenes.backgrounds import background
from seedling.scenes.drawing import draw_scene
from seedling.scenes.scene import Object, Scene, Word

LONG, WIDEST = 2.6, 3.3
PARTS = 250_000
"""Between the seeds of the scenes of one picture: more than a stage has."""


def foreign(seed: int) -> Scene:
    """Clouds, shapes, both, or a mere ground: a scene of this seed with no object, no word, and no name but its
    commonest colour."""
    rng = np.random.default_rng((seed, 4))
    size = tuple(int(n) for n in rng.integers(160, 481, 2))
    width, height = size
    clouds = rng.random() < 0.6
    picture = _clouds(rng, (width, height)) if clouds else background(rng, (width, height))[0]
    shapes = rng.random() < 0.6
    if shapes:
        pen = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(1, 25))):
            _shape(rng, pen, (width, height))
    sample = np.asarray(picture.resize((24, 24), Image.Resampling.NEAREST)).reshape(-1, 3)
    return Scene(picture, (), (), colors.find_main_color(sample), mixed=clouds or shapes)


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Layers of colour of growing fineness and falling strength, stretched to some contrast."""
    total = np.zeros((size[1], size[0], 3))
    fall, cells = rng.uniform(0.3, 1.2), float(rng.uniform(1.5, 4))
    while cells < 48:
        shape = (int(cells * rng.uniform(0.7, 1.4)) + 1, int(cells * rng.uniform(0.7, 1.4)) + 1, 3)
        values = rng.normal(0, 1, shape) if rng.random() < 0.7 else rng.normal(0, 1, (*shape[:2], 1)).repeat(3, 2)
        layer = Image.fromarray((128 + 40 * values).clip(0, 255).astype(np.uint8))
        total += (np.asarray(layer.resize(size, Image.Resampling.BICUBIC), float) - 128) / cells**fall
        cells *= rng.uniform(1.6, 2.6)
    middle, contrast = rng.uniform(80, 180, 3), rng.uniform(25, 75)
    return Image.fromarray((middle + contrast * total / total.std()).clip(0, 255).astype(np.uint8))


def _shape(rng: np.random.Generator, pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """An ellipse, a polygon, a line or an arc of a colour, anywhere."""
    centre = rng.random(2) * size
    reach = rng.uniform(0.03, 0.35, 2) * min(size)
    color = colors.pick_random_color(rng)
    low, high = centre - reach, centre + reach
    corners = [*map(float, low), *map(float, high)]
    kind = int(rng.integers(4))
    if kind == 0:
        pen.ellipse(corners, fill=color)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        points = centre + reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(float(x), float(y)) for x, y in points], fill=color)
    elif kind == 2:
        pen.line(corners, fill=color, width=int(rng.integers(1, 9)))
    else:
        start = float(rng.uniform(0, 360))
        pen.arc(corners, start, start + float(rng.uniform(30, 330)), fill=color, width=int(rng.integers(2, 9)))


def widened(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene on a longer canvas of one colour, up to WIDEST times as long as wide, half of the time at least LONG;
    everything moves with it."""
    w, h = scene.image.size
    least = max(1.2 * max(w, h) / min(w, h), LONG if rng.random() < 0.5 else 1.0)
    aspect = rng.uniform(min(least, WIDEST), WIDEST)
    size = (round(max(w, aspect * h)), h) if w >= h else (w, round(max(h, aspect * w)))
    canvas = Image.new("RGB", size, colors.pick_random_color(rng))
    at = rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.15, 0.25]) if rng.random() < 0.85 else rng.random()
    return _pasted(canvas, [(scene, (int(at * (size[0] - w)), int(at * (size[1] - h))))])


def abreast(seed: int, rng: np.random.Generator) -> Scene:
    """Two or three scenes side by side, or one above the other, on a picture about three times as long as wide: as
    many things as others have, all of them narrow. No words: they would be squashed to threads."""
    count = int(rng.integers(2, 4))
    short = int(rng.integers(120, 321))
    part = round(short * rng.uniform(LONG, WIDEST) / count)
    upright = rng.random() < 0.5
    size, step = ((short, part), (0, part)) if upright else ((part, short), (part, 0))
    parts = [draw_scene(seed + k * PARTS, objects=(1, 6 // count), words=(0, 0), size=size) for k in range(count)]
    canvas = Image.new("RGB", (short, part * count) if upright else (part * count, short))
    return _pasted(canvas, [(scene, (step[0] * k, step[1] * k)) for k, scene in enumerate(parts)])


def _pasted(canvas: Image.Image, parts: Sequence[tuple[Scene, tuple[int, int]]]) -> Scene:
    """The scenes on the canvas, each with its upper left corner there; everything moves with them."""
    objects: list[Object] = []
    words: list[Word] = []
    for scene, at in parts:
        canvas.paste(scene.image, at)

        def moved(points: Sequence[float], at: tuple[int, int] = at) -> Any:
            return tuple(value + at[i % 2] for i, value in enumerate(points))

        objects += [
            replace(thing, box=moved(thing.box), polygons=[list(moved(ring)) for ring in thing.polygons])
            for thing in scene.objects
        ]
        words += [replace(word, quad=moved(word.quad), box=moved(word.box)) for word in scene.words]
    objects.sort(key=lambda thing: thing.box)
    sample = np.asarray(canvas.resize((24, 24), Image.Resampling.NEAREST)).reshape(-1, 3)
    return Scene(canvas, tuple(objects), tuple(words), colors.find_main_color(sample), mixed=True)
