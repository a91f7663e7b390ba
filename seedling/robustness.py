"""Detection on the report's scenes made harder, and on pictures where nothing is to be found."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from finetune.evaluation.detection import Pictures, average_precision
from labels import drawing
from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.engine.request import Request

NOISE = 16.0
"""Standard deviation of the grain, of 255."""
LONG = 2000
"""Pixels of the longer side of a large picture."""


def jpeg(picture: Image.Image) -> Image.Image:
    """As JPEG of quality 30 leaves it."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def blur(picture: Image.Image) -> Image.Image:
    """Gaussian, of 1/192 of the shorter side: a pixel and a third of what the seedling sees."""
    return picture.filter(ImageFilter.GaussianBlur(min(picture.size) / 192))


def noise(picture: Image.Image) -> Image.Image:
    """Grain of NOISE in each channel, the same at each call."""
    grain = np.random.default_rng(0).normal(0, NOISE, (picture.height, picture.width, 3))
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))


def wide(picture: Image.Image, times: int) -> Image.Image:
    """At least `times` as wide as high, or as high as wide: grey is added on the right or below, nothing moves."""
    w, h = picture.size
    canvas = Image.new("RGB", (max(w, times * h), h) if w >= h else (w, max(h, times * w)), (128, 128, 128))
    canvas.paste(picture)
    return canvas


def large(picture: Image.Image) -> Image.Image:
    """Enlarged to LONG pixels."""
    return picture.resize(_enlarged(picture.size), Image.Resampling.BICUBIC)


def _enlarged(size: tuple[int, int]) -> tuple[int, int]:
    return round(size[0] * LONG / max(size)), round(size[1] * LONG / max(size))


CONDITIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 30": jpeg, "blur": blur, "noise": noise, "aspect 2:1": partial(wide, times=2),
    "aspect 3:1": partial(wide, times=3), "2000 pixels": large,
}  # fmt: skip


def texture(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture of something else: clouds of colour at five scales."""
    rng = np.random.default_rng((seed, 3))
    total = np.zeros((size[1], size[0], 3))
    for cells in (2, 4, 8, 16, 32):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64) / cells**0.5
    total -= total.min()
    return Image.fromarray((255 * total / total.max()).astype(np.uint8))


def robustness(engine: Engine, scenes: int) -> dict[str, float]:
    """By condition, how much mAP@50 of `<OD>` falls on the scenes of seeds 0 … `scenes` - 1; then the share of empty
    grounds, and of textures, where nothing is found."""
    drawn = [draw_scene(seed, objects=(1, 6), words=(0, 2)) for seed in range(scenes)]
    truth = [list(q.answer) if (q := samples.make_sample(s, "<OD>", np.random.default_rng(0))) else [] for s in drawn]

    def precision(change: Callable[[Image.Image], Image.Image]) -> float:
        found = _detected(engine, [change(scene.image) for scene in drawn])
        pictures: Pictures = [
            (notes, [_scaled(note, scene.image.size, change) for note in true])
            for notes, true, scene in zip(found, truth, drawn, strict=True)
        ]
        return average_precision(pictures).ap50

    plain = precision(lambda picture: picture)
    figures = {f"{name}: loss of mAP@50": plain - precision(change) for name, change in CONDITIONS.items()}
    grounds = [draw_scene(seed, objects=(0, 0), words=(0, 0)).image for seed in range(scenes)]
    for name, pictures in ("empty picture", grounds), ("texture", [texture(seed) for seed in range(scenes)]):
        figures[f"{name}: nothing found"] = float(np.mean([not notes for notes in _detected(engine, pictures)]))
    return figures


def nothing(engine: Engine, each: int = 6) -> Image.Image:
    """A contact sheet of what is found where there is nothing: empty grounds, then textures, `each` of them from seed
    0 on."""
    pictures = [draw_scene(seed, objects=(0, 0), words=(0, 0)).image for seed in range(each)]
    pictures += [texture(seed) for seed in range(each)]
    found = _detected(engine, pictures)
    return drawing.contact_sheet([drawing.draw(*pair) for pair in zip(pictures, found, strict=True)])


def _detected(engine: Engine, pictures: list[Image.Image]) -> list[list[Annotation]]:
    found: list[list[Annotation]] = []
    for first in range(0, len(pictures), 32):  # what is in hand stays small, 2000-pixel pictures too
        handles = [engine.submit(Request(p, TASKS["<OD>"])) for p in pictures[first : first + 32]]
        found += [list(handle.wait().annotations) for handle in handles]
    return found


def _scaled(note: Annotation, size: tuple[int, int], change: Callable[[Image.Image], Image.Image]) -> Annotation:
    if change is not large or not isinstance(note, Box):
        return note
    across, down = (new / old for new, old in zip(_enlarged(size), size, strict=True))
    x1, y1, x2, y2 = note.box
    return note.model_copy(update={"box": (x1 * across, y1 * down, x2 * across, y2 * down)})
