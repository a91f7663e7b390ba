"""Augmentation: random changes of images, and of their labels with them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from PIL import Image, ImageEnhance

from finetune.datasets import wording
from finetune.datasets.affine_view import (
    IDENTITY,
    AffineView,
    Matrix,
    Size,
    compose,
    view_annotation,
    view_labels,
)
from finetune.datasets.copy_paste import ObjectBank, Patch
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation, Quad, Text

_MAX_TRIES = 8
_MOSAIC_CENTER = (0.35, 0.65)  # range of the point where four images meet, as a share of each side
_MIN_CROP_PIXELS = 16  # of a crop's side


@dataclass(frozen=True, slots=True)
class AugmentationConfig:
    """The probability of each change (0 to 1), and its largest strength.

    `flip` exchanges left and right, in texts too; images with words are not flipped. `crop` shows a part, `min_scale`
    or more of each side. `shrink` shows the image smaller, `min_scale` or more of each side, on its mean color.
    `rotate`: by up to `max_degrees`. `color`: brightness, contrast and saturation by up to the share `max_color`, and
    hue by up to `max_hue` of the color circle (0.5: any hue) if no label contains a color. `mosaic`: beside three other
    images. `paste`: with objects of other images.
    """

    flip: float = 0.0
    crop: float = 0.0
    shrink: float = 0.0
    min_scale: float = 0.5
    rotate: float = 0.0
    max_degrees: float = 8.0
    color: float = 0.0
    max_color: float = 0.3
    max_hue: float = 0.0
    mosaic: float = 0.0
    paste: float = 0.0

    @classmethod
    def from_strength(cls, strength: float, *, flip: bool = True, max_hue: float = 0.0) -> Self:
        """Returns a configuration for one overall strength, 0 (no changes) to 1."""
        return cls(
            flip=min(strength, 0.5) if flip else 0.0, crop=0.5 * strength, shrink=0.25 * strength,
            rotate=0.3 * strength, color=strength, max_hue=max_hue, mosaic=0.25 * strength,
            paste=min(1.4 * strength, 1.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ColorJitter:
    """Factors of brightness, contrast and saturation; `hue`: a shift, as a share of the color circle."""

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0

    def apply(self, image: Image.Image) -> Image.Image:
        """Returns the changed image."""
        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Contrast(image).enhance(self.contrast)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        if not self.hue:
            return image
        hue, *rest = image.convert("HSV").split()
        shifted = hue.point([round(256 * self.hue + level) % 256 for level in range(256)])
        return Image.merge("HSV", (shifted, *rest)).convert("RGB")


@dataclass(frozen=True, slots=True)
class AugmentedImage:
    """A changed image, rendered when it is called. It can be pickled if the images that it is made of can be."""

    size: Size
    parts: tuple[tuple[Callable[[], Image.Image], AffineView], ...]
    patches: tuple[Patch, ...] = ()
    jitter: ColorJitter | None = None

    def __call__(self) -> Image.Image:
        if len(self.parts) == 1:
            open_image, view = self.parts[0]
            image = view.render(open_image())
            image = image.copy() if self.patches else image  # the original may be shared
        else:
            image = Image.new("RGB", self.size)
            for open_image, view in self.parts:
                image.paste(view.render(open_image()), view.window[:2])
        for patch in self.patches:
            patch.paste_into(image)
        return self.jitter.apply(image) if self.jitter else image


def augment(
    image: LabeledImage, config: AugmentationConfig, rng: np.random.Generator, others: Sequence[LabeledImage] = (),
    objects: ObjectBank | None = None,
) -> LabeledImage:  # fmt: skip
    """Returns a randomly changed image with the labels that are still true. It is rendered when it is opened.

    `others`: images for mosaics; `objects`: objects that may be pasted. Objects that are hardly visible lose their
    labels.
    """

    def happens(probability: float) -> bool:
        return bool(rng.random() < probability)

    companions = _choose_companions(image, others, rng) if happens(config.mosaic) else None
    if companions:
        result = _make_mosaic(image, companions, rng)
    else:
        result = _apply_view(image, _choose_view(image, config, rng, happens, others))
        if objects and happens(config.paste):
            result = _paste(result, *objects.choose_objects(result, rng, flip=config.flip > 0))
    if not happens(config.color):
        return result
    brightness, contrast, saturation = np.exp(rng.uniform(-1, 1, 3) * math.log1p(config.max_color)).tolist()
    shift_hue = config.max_hue and not _mentions_color(result)
    hue = float(rng.uniform(-1, 1)) * config.max_hue if shift_hue else 0.0
    jitter = ColorJitter(brightness, contrast, saturation, hue)
    return replace(result, open=replace(_to_augmented(result), jitter=jitter))


def _to_augmented(image: LabeledImage) -> AugmentedImage:
    if isinstance(image.open, AugmentedImage):
        return image.open
    return AugmentedImage(image.size, ((image.open, _create_full_view(image.size)),))


def _paste(image: LabeledImage, annotations: tuple[Annotation, ...], patches: tuple[Patch, ...]) -> LabeledImage:
    if not patches:
        return image
    augmented = replace(_to_augmented(image), patches=patches)
    return replace(image.with_annotations(*image.annotations, *annotations), open=augmented)


def _mentions_color(image: LabeledImage) -> bool:
    texts = (text for sample in image.samples for text in (sample.text or "", *_labels(sample.answer)))
    return any(wording.mentions_color(text) for text in (*_labels(image.annotations), *texts))


def _labels(annotations: Sequence[Annotation]) -> Iterator[str]:
    return (annotation.label for annotation in annotations)


def _create_full_view(size: Size) -> AffineView:
    return AffineView(size, size, IDENTITY, (0, 0, *size))


def _apply_view(image: LabeledImage, view: AffineView) -> LabeledImage:
    if view == _create_full_view(image.size):
        return image
    annotations, samples, complete = view_labels(image, view)
    width, height = view.size
    return replace(
        image.with_annotations(*annotations), width=width, height=height, samples=samples, complete=complete,
        open=AugmentedImage(view.size, ((image.open, view),)),
    )  # fmt: skip


def _choose_view(
    image: LabeledImage, config: AugmentationConfig, rng: np.random.Generator, happens: Callable[[float], bool],
    others: Sequence[LabeledImage],
) -> AffineView:  # fmt: skip
    size = image.size
    matrix = IDENTITY
    if happens(config.flip) and _can_flip(image, others):
        matrix = (-1.0, 0.0, float(size[0]), 0.0, 1.0, 0.0)
    if happens(config.rotate):
        degrees = rng.uniform(-config.max_degrees, config.max_degrees)
        matrix = compose(matrix, _rotate_around_center(math.radians(degrees), size))
    if happens(config.shrink):
        matrix = compose(matrix, _compute_shrinking(size, config.min_scale, rng))
    elif happens(config.crop):
        for _ in range(_MAX_TRIES):
            x, y, width, height = _choose_crop(size, config.min_scale, rng)
            shifted = compose(matrix, (1.0, 0.0, -x, 0.0, 1.0, -y))
            view = AffineView(size, (width, height), shifted, (0, 0, width, height))
            if _shows_object(image, view):
                return view
    return AffineView(size, size, matrix, (0, 0, *size))


def _rotate_around_center(angle: float, size: Size) -> Matrix:
    """Rotates clockwise."""
    x, y = size[0] / 2, size[1] / 2
    cos, sin = math.cos(angle), math.sin(angle)
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _compute_shrinking(size: Size, min_scale: float, rng: np.random.Generator) -> Matrix:
    scale = float(rng.uniform(min_scale, 1))
    x, y = (float(rng.uniform(0, side * (1 - scale))) for side in size)
    return scale, 0.0, x, 0.0, scale, y


def _choose_crop(size: Size, min_scale: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Returns x, y, width and height in whole pixels."""
    width, height = (
        max(min(_MIN_CROP_PIXELS, side), round(side * float(scale)))
        for side, scale in zip(size, rng.uniform(min_scale, 1, 2), strict=True)
    )
    return int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1)), width, height


def _shows_object(image: LabeledImage, view: AffineView) -> bool:
    """Returns whether a labeled shape is visible in a crop.

    An image that is labeled only with texts is not cropped, since nobody knows what the texts are about.
    """
    shapes = [a for a in image.annotations if not isinstance(a, Text)]
    if not shapes:
        return not (image.annotations or image.samples)
    return any(view_annotation(shape, view).annotation is not None for shape in shapes)


def _can_flip(image: LabeledImage, others: Sequence[LabeledImage]) -> bool:
    """Returns whether the mirror image can be labeled.

    An image with words cannot. Neither can one with a short label that contains a side, unless the mirrored label
    exists too: left and right arrows are exchanged, a right whale is not.
    """
    answers = [annotation for sample in image.samples for annotation in sample.answer]
    if any(isinstance(annotation, Quad) for annotation in (*image.annotations, *answers)):
        return False
    if any("OCR" in sample.task.token for sample in image.samples):
        return False
    labels = {a.label for a in image.annotations if not isinstance(a, Text)}
    mirrored = {
        wording.swap_sides(label) for label in labels if wording.mentions_side(label) and not wording.is_phrase(label)
    }
    return not mirrored or mirrored <= {a.label for other in (image, *others) for a in other.annotations}


def _choose_companions(
    image: LabeledImage, others: Sequence[LabeledImage], rng: np.random.Generator
) -> list[LabeledImage] | None:
    """Returns three other images with labels that are at least as complete.

    None if they are not found, if the image is too small for a mosaic, or if it is labeled only with texts.
    """
    if not others or min(image.size) < 2 * _MIN_CROP_PIXELS:
        return None
    if not image.complete and all(isinstance(a, Text) for a in image.annotations):
        return None
    companions = list[LabeledImage]()
    for _ in range(3 * _MAX_TRIES):
        other = others[int(rng.integers(len(others)))]
        if other.complete >= image.complete and all(other is not one for one in (image, *companions)):
            companions.append(other)
        if len(companions) == 3:
            return companions
    return None


def _make_mosaic(image: LabeledImage, others: Sequence[LabeledImage], rng: np.random.Generator) -> LabeledImage:
    """Combines four images that meet near the center; each fills its corner."""
    width, height = image.size
    x, y = (round(side * float(share)) for side, share in zip(image.size, rng.uniform(*_MOSAIC_CENTER, 2), strict=True))
    windows = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    tiles = (image, *others)
    parts = [
        (tiles[i], _cover_window(tiles[i].size, image.size, window, rng))
        for i, window in zip(rng.permutation(4), windows, strict=True)
    ]
    annotations, samples, complete = zip(*(view_labels(tile, view, alone=False) for tile, view in parts), strict=True)
    return replace(
        image.with_annotations(*(annotation for own in annotations for annotation in own)),
        samples=tuple(sample for own in samples for sample in own),
        complete=frozenset.intersection(*complete),
        open=AugmentedImage(image.size, tuple((tile.open, view) for tile, view in parts)),
    )


def _cover_window(source: Size, size: Size, window: tuple[int, int, int, int], rng: np.random.Generator) -> AffineView:
    """Returns the smallest view that covers the window, at a random position."""
    sides = window[2] - window[0], window[3] - window[1]
    scale = max(sides[0] / source[0], sides[1] / source[1])
    x, y = (window[k] - float(rng.random()) * (scale * source[k] - sides[k]) for k in (0, 1))
    return AffineView(source, size, (scale, 0.0, x, 0.0, scale, y), window)
