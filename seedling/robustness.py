"""Detection on harder versions of the report's scenes, and on images without objects."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from finetune.evaluation.detection import AnnotationPairs, compute_average_precision
from labels import drawing
from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.engine.request import Request

NOISE = 16.0
"""Standard deviation of the noise, in units of 1/255."""
LARGE_SIDE = 2000
"""Longer side of a large image, in pixels."""


def compress_jpeg(image: Image.Image) -> Image.Image:
    """Compresses with JPEG quality 30."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def blur(image: Image.Image) -> Image.Image:
    """Blurs with a Gaussian of 1/192 of the shorter side: 1.3 pixels or more of the model's input."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / 192))


def add_noise(image: Image.Image) -> Image.Image:
    """Adds noise of standard deviation NOISE to each channel, the same in every call."""
    noise = np.random.default_rng(0).normal(0, NOISE, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def pad_to_aspect(image: Image.Image, aspect: int) -> Image.Image:
    """Pads with gray on the right or below to at least `aspect` times the shorter side. Coordinates stay the same."""
    w, h = image.size
    canvas = Image.new("RGB", (max(w, aspect * h), h) if w >= h else (w, max(h, aspect * w)), (128, 128, 128))
    canvas.paste(image)
    return canvas


def enlarge(image: Image.Image) -> Image.Image:
    """Enlarges to LARGE_SIDE pixels."""
    return image.resize(_compute_enlarged_size(image.size), Image.Resampling.BICUBIC)


def _compute_enlarged_size(size: tuple[int, int]) -> tuple[int, int]:
    return round(size[0] * LARGE_SIDE / max(size)), round(size[1] * LARGE_SIDE / max(size))


CONDITIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 30": compress_jpeg, "blur": blur, "noise": add_noise, "aspect 2:1": partial(pad_to_aspect, aspect=2),
    "aspect 3:1": partial(pad_to_aspect, aspect=3), "2000 pixels": enlarge,
}  # fmt: skip


def draw_texture(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draws an image without objects: color clouds at five scales."""
    rng = np.random.default_rng((seed, 3))
    total = np.zeros((size[1], size[0], 3))
    for cells in (2, 4, 8, 16, 32):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.float64) / cells**0.5
    total -= total.min()
    return Image.fromarray((255 * total / total.max()).astype(np.uint8))


def measure_robustness(engine: Engine, scenes: int) -> dict[str, float]:
    """Returns metrics by condition, on the scenes with seeds 0 to `scenes` - 1.

    These are the drop of `<OD>` mAP@50, and the share of plain backgrounds and of textures without a detection.
    """
    drawn = [draw_scene(seed, objects=(1, 6), words=(0, 2)) for seed in range(scenes)]
    truth = [
        list(sample.answer) if (sample := samples.make_sample(scene, "<OD>", np.random.default_rng(0))) else []
        for scene in drawn
    ]

    def measure_map50(change: Callable[[Image.Image], Image.Image]) -> float:
        predictions = _detect(engine, [change(scene.image) for scene in drawn])
        pairs: AnnotationPairs = [
            (predicted, [_scale(annotation, scene.image.size, change) for annotation in true])
            for predicted, true, scene in zip(predictions, truth, drawn, strict=True)
        ]
        return compute_average_precision(pairs).ap50

    unchanged = measure_map50(lambda image: image)
    metrics = {f"{name}: mAP@50 drop": unchanged - measure_map50(change) for name, change in CONDITIONS.items()}
    for name, images in ("empty image", _draw_empty(scenes)), ("texture", _draw_textures(scenes)):
        no_detections = [not annotations for annotations in _detect(engine, images)]
        metrics[f"{name}: no detections"] = float(np.mean(no_detections))
    return metrics


def draw_false_positives(engine: Engine, count: int = 6) -> Image.Image:
    """Returns a contact sheet of detections in `count` plain backgrounds and `count` textures."""
    images = _draw_empty(count) + _draw_textures(count)
    return drawing.draw_contact_sheet(
        [drawing.draw_annotations(image, found) for image, found in zip(images, _detect(engine, images), strict=True)]
    )


def _draw_empty(count: int) -> list[Image.Image]:
    return [draw_scene(seed, objects=(0, 0), words=(0, 0)).image for seed in range(count)]


def _draw_textures(count: int) -> list[Image.Image]:
    return [draw_texture(seed) for seed in range(count)]


def _detect(engine: Engine, images: list[Image.Image]) -> list[list[Annotation]]:
    predictions: list[list[Annotation]] = []
    for first in range(0, len(images), 32):  # limits memory, for images of 2000 pixels too
        handles = [engine.submit(Request(image, TASKS["<OD>"])) for image in images[first : first + 32]]
        predictions += [list(handle.wait().annotations) for handle in handles]
    return predictions


def _scale(annotation: Annotation, size: tuple[int, int], change: Callable[[Image.Image], Image.Image]) -> Annotation:
    """Scales a true box when `change` enlarges the image."""
    if change is not enlarge or not isinstance(annotation, Box):
        return annotation
    across, down = (new / old for new, old in zip(_compute_enlarged_size(size), size, strict=True))
    x1, y1, x2, y2 = annotation.box
    return annotation.model_copy(update={"box": (x1 * across, y1 * down, x2 * across, y2 * down)})
