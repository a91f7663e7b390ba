"""Unusual images: without any of the 40 categories, or much wider or higher than others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from seedling.scenes import colors
from seedling.scenes.backgrounds import draw_background
from seedling.scenes.drawing import draw_scene
from seedling.scenes.scene import Scene, SceneObject, SceneWord

LONG_ASPECT, MAX_ASPECT = 2.6, 3.3
SEED_STRIDE = 250_000
"""Distance between the seeds of scenes that share one image. Larger than the number of images of any stage."""


def draw_unrelated_scene(seed: int) -> Scene:
    """Returns the scene of this seed without objects and words: clouds, shapes, both, or a plain background."""
    rng = np.random.default_rng((seed, 4))
    size = tuple(int(n) for n in rng.integers(160, 481, 2))
    width, height = size
    clouds = rng.random() < 0.6
    image = _draw_clouds(rng, (width, height)) if clouds else draw_background(rng, (width, height))[0]
    shapes = rng.random() < 0.6
    if shapes:
        pen = ImageDraw.Draw(image)
        for _ in range(int(rng.integers(1, 25))):
            _draw_shape(rng, pen, (width, height))
    sample = np.asarray(image.resize((24, 24), Image.Resampling.NEAREST)).reshape(-1, 3)
    return Scene(image, (), (), colors.find_main_color(sample), multicolored=clouds or shapes)


def widen(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns the scene on a longer canvas of one color, with all coordinates moved.

    The aspect ratio is at most MAX_ASPECT, and in half of the cases at least LONG_ASPECT.
    """
    w, h = scene.image.size
    least = max(1.2 * max(w, h) / min(w, h), LONG_ASPECT if rng.random() < 0.5 else 1.0)
    aspect = rng.uniform(min(least, MAX_ASPECT), MAX_ASPECT)
    size = (round(max(w, aspect * h)), h) if w >= h else (w, round(max(h, aspect * w)))
    canvas = Image.new("RGB", size, colors.pick_random_color(rng))
    at = rng.choice([0.0, 0.5, 1.0], p=[0.6, 0.15, 0.25]) if rng.random() < 0.85 else rng.random()
    return _paste_scenes(canvas, [(scene, (int(at * (size[0] - w)), int(at * (size[1] - h))))])


def draw_side_by_side(seed: int, rng: np.random.Generator) -> Scene:
    """Returns two or three scenes side by side, or one above the other, in an image about three times as long as wide.

    It has as many objects as other scenes, but narrow ones. It has no words: they would be too thin to read.
    """
    count = int(rng.integers(2, 4))
    short = int(rng.integers(120, 321))
    part = round(short * rng.uniform(LONG_ASPECT, MAX_ASPECT) / count)
    upright = rng.random() < 0.5
    size, step = ((short, part), (0, part)) if upright else ((part, short), (part, 0))
    parts = [draw_scene(seed + k * SEED_STRIDE, objects=(1, 6 // count), words=(0, 0), size=size) for k in range(count)]
    canvas = Image.new("RGB", (short, part * count) if upright else (part * count, short))
    return _paste_scenes(canvas, [(scene, (step[0] * k, step[1] * k)) for k, scene in enumerate(parts)])


def _draw_clouds(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draws color layers of growing frequency and falling amplitude, scaled to some contrast."""
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


def _draw_shape(rng: np.random.Generator, pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
    """Draws an ellipse, a polygon, a line or an arc in one color at a random place."""
    center = rng.random(2) * size
    reach = rng.uniform(0.03, 0.35, 2) * min(size)
    color = colors.pick_random_color(rng)
    low, high = center - reach, center + reach
    corners = [*map(float, low), *map(float, high)]
    kind = int(rng.integers(4))
    if kind == 0:
        pen.ellipse(corners, fill=color)
    elif kind == 1:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        points = center + reach * np.stack([np.cos(angles), np.sin(angles)], 1)
        pen.polygon([(float(x), float(y)) for x, y in points], fill=color)
    elif kind == 2:
        pen.line(corners, fill=color, width=int(rng.integers(1, 9)))
    else:
        start = float(rng.uniform(0, 360))
        pen.arc(corners, start, start + float(rng.uniform(30, 330)), fill=color, width=int(rng.integers(2, 9)))


def _paste_scenes(canvas: Image.Image, parts: Sequence[tuple[Scene, tuple[int, int]]]) -> Scene:
    """Returns one scene of several on the canvas, each with its upper left corner at the given position."""
    objects: list[SceneObject] = []
    words: list[SceneWord] = []
    for scene, at in parts:
        canvas.paste(scene.image, at)

        def move(points: Sequence[float], at: tuple[int, int] = at) -> Any:
            return tuple(value + at[i % 2] for i, value in enumerate(points))

        objects += [
            replace(item, box=move(item.box), polygons=[list(move(ring)) for ring in item.polygons])
            for item in scene.objects
        ]
        words += [replace(word, quad=move(word.quad), box=move(word.box)) for word in scene.words]
    objects.sort(key=lambda item: item.box)
    sample = np.asarray(canvas.resize((24, 24), Image.Resampling.NEAREST)).reshape(-1, 3)
    return Scene(canvas, tuple(objects), tuple(words), colors.find_main_color(sample), multicolored=True)
