"""Backgrounds: plain, gradients, blobs, stripes, checks, multi-scale noise. Most are drawn small and enlarged."""

import numpy as np
from PIL import Image

from seedling.scenes import colors

Size = tuple[int, int]


def draw_background(rng: np.random.Generator, size: Size) -> tuple[Image.Image, str]:
    """Returns an RGB image of `size` (width, height) and the name of its most common color."""
    draw = KINDS[int(rng.choice(len(KINDS), p=KIND_SHARES))]
    image = draw(rng, np.array(colors.pick_random_color(rng), np.float64), size)
    return image, colors.find_main_color(np.asarray(image.resize((24, 24), Image.Resampling.NEAREST)).reshape(-1, 3))


def draw_plain(rng: np.random.Generator, base: np.ndarray, size: Size) -> Image.Image:
    return Image.new("RGB", size, tuple(int(c) for c in base))


def draw_gradient(rng: np.random.Generator, base: np.ndarray, size: Size) -> Image.Image:
    return _to_image(_draw_random_colors_near(rng, base, 45, (2, 2))).resize(size, Image.Resampling.BICUBIC)


def draw_blobs(rng: np.random.Generator, base: np.ndarray, size: Size) -> Image.Image:
    shape = (int(rng.integers(3, 9)), int(rng.integers(3, 9)))
    return _to_image(_draw_random_colors_near(rng, base, 50, shape)).resize(size, Image.Resampling.BICUBIC)


def draw_stripes(rng: np.random.Generator, base: np.ndarray, size: Size) -> Image.Image:
    """Draws vertical stripes, horizontal stripes or checks in two shades of one color, so that one color name fits."""
    second = base + rng.choice([-1, 1]) * rng.uniform(14, 48) + rng.uniform(-12, 12, 3)
    columns, rows = int(rng.integers(4, 17)), int(rng.integers(4, 17))
    across, down = np.arange(columns) % 2, np.arange(rows)[:, None] % 2
    pattern = [np.broadcast_to(across, (rows, columns)), np.broadcast_to(down, (rows, columns)), across ^ down]
    odd = pattern[int(rng.integers(3))][..., None]
    return _to_image(np.where(odd, second, base)).resize(size, Image.Resampling.NEAREST)


def draw_noise(rng: np.random.Generator, base: np.ndarray, size: Size) -> Image.Image:
    """Draws grain of one to four pixels, like paper or cloth."""
    grain = int(rng.integers(1, 5))
    shape = (max(size[1] // grain, 2), max(size[0] // grain, 2))
    amplitude = int(rng.integers(6, 28))
    light = rng.integers(-amplitude, amplitude + 1, (*shape, 1), dtype=np.int16)
    return _to_image(base.astype(np.int16) + light).resize(size, Image.Resampling.BILINEAR)


def draw_octaves(rng: np.random.Generator, base: np.ndarray, size: Size) -> Image.Image:
    """Draws noise whose amplitude falls with frequency, as in photographs (Field 1987: 1/f)."""
    side = 64
    total = np.zeros((side, side, 3), np.float32)
    for cells, amplitude in ((3, 34), (6, 24), (12, 16), (24, 11), (side, 7)):
        layer = _to_image(128 + _draw_random_colors_near(rng, np.zeros(3), amplitude, (cells, cells)))
        total += np.asarray(layer.resize((side, side), Image.Resampling.BICUBIC), np.float32) - 128
    return _to_image(base + total).resize(size, Image.Resampling.BICUBIC)


KINDS = (draw_plain, draw_gradient, draw_blobs, draw_stripes, draw_noise, draw_octaves)
KIND_SHARES = (0.2, 0.18, 0.17, 0.15, 0.15, 0.15)


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _draw_random_colors_near(
    rng: np.random.Generator, base: np.ndarray, spread: float, shape: tuple[int, int]
) -> np.ndarray:
    """Returns (rows, columns, 3) colors around `base`: brightness varies by `spread` (0-255), channels by a third."""
    light = rng.uniform(-spread, spread, (*shape, 1))
    return base + light + rng.uniform(-spread / 3, spread / 3, (*shape, 3))
