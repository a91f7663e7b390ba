"""Changes of pictures that move the labels with them: more pictures out of few."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from PIL import Image, ImageEnhance

from finetune.datasets import wording
from finetune.datasets.affine_view import IDENTITY, Matrix, Size, View, see, seen, then
from finetune.datasets.copy_paste import Patch, Things
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation, Quad, Text

_TRIES = 8
_JOIN = (0.35, 0.65)  # where in a mosaic, as a share of its sides, four pictures meet
_LEAST_PIXELS = 16  # of a crop's side


@dataclass(frozen=True, slots=True)
class Augment:
    """How often each change is made (0 to 1), and how strong it is at most.

    `flip` exchanges left and right, in words too; pictures of writing are not flipped. `crop` shows a part, `least` of
    each side or more; `place` shows the picture smaller, `least` of each side or more, on a ground of its mean colour.
    `rotate`: by up to `degrees`. `colour`: brightness, contrast and saturation by up to the share `colours`, and hues
    by up to `hue` of their circle (0.5: any) where no label names a colour. `mosaic`: beside three others.
    `paste`: with things of others put in.
    """

    flip: float = 0.0
    crop: float = 0.0
    place: float = 0.0
    least: float = 0.5
    rotate: float = 0.0
    degrees: float = 8.0
    colour: float = 0.0
    colours: float = 0.3
    hue: float = 0.0
    mosaic: float = 0.0
    paste: float = 0.0

    @classmethod
    def of(cls, strength: float, *, flip: bool = True, hue: float = 0.0) -> Self:
        """All changes by one number, 0 (none) to 1. `flip`: whether things may be mirrored at all; `hue`: how far hues
        may be turned."""
        return cls(
            flip=min(strength, 0.5) if flip else 0.0, crop=0.5 * strength, place=0.25 * strength, rotate=0.3 * strength,
            colour=strength, hue=hue, mosaic=0.25 * strength, paste=min(1.4 * strength, 1.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Colours:
    """Factors, 1 for no change; `hue`: by how much of the circle hues are turned."""

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0

    def paint(self, image: Image.Image) -> Image.Image:
        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Contrast(image).enhance(self.contrast)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        if not self.hue:
            return image
        hue, *others = image.convert("HSV").split()
        turned = hue.point([round(256 * self.hue + level) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, *others)).convert("RGB")


@dataclass(frozen=True, slots=True)
class Changed:
    """A picture out of one or more, painted when it is called; it can be pickled where they can."""

    size: Size
    parts: tuple[tuple[Callable[[], Image.Image], View], ...]
    patches: tuple[Patch, ...] = ()
    colours: Colours | None = None

    def __call__(self) -> Image.Image:
        if len(self.parts) == 1:
            opened, view = self.parts[0]
            image = view.paint(opened())
            image = image.copy() if self.patches else image  # it may be what others open, too
        else:
            image = Image.new("RGB", self.size)
            for opened, view in self.parts:
                image.paste(view.paint(opened()), view.window[:2])
        for patch in self.patches:
            patch.paint(image)
        return self.colours.paint(image) if self.colours else image


def augment(
    example: LabeledImage, changes: Augment, rng: np.random.Generator, others: Sequence[LabeledImage] = (),
    things: Things | None = None,
) -> LabeledImage:  # fmt: skip
    """The example changed by chance, with the labels that are still true; its picture is painted when it is opened.
    `others`: what a mosaic may be made with; `things`: what may be put into it. Things of which little is left are no
    longer labelled."""

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    companions = _companions(example, others, rng) if chance(changes.mosaic) else None
    if companions:
        result = _mosaic(example, companions, rng)
    else:
        result = _seen(example, _view(example, changes, rng, chance, others))
        if things and chance(changes.paste):
            result = _pasted(result, *things.put_into(result, rng, flip=changes.flip > 0))
    if not chance(changes.colour):
        return result
    brightness, contrast, saturation = np.exp(rng.uniform(-1, 1, 3) * math.log1p(changes.colours)).tolist()
    hue = float(rng.uniform(-1, 1)) * changes.hue if changes.hue and not _names_colour(result) else 0.0
    colours = Colours(brightness, contrast, saturation, hue)
    return replace(result, open=replace(_change(result), colours=colours))


def _change(example: LabeledImage) -> Changed:
    """How its picture is made, for who adds to that."""
    if isinstance(example.open, Changed):
        return example.open
    return Changed(example.size, ((example.open, _whole(example.size)),))


def _pasted(example: LabeledImage, notes: tuple[Annotation, ...], patches: tuple[Patch, ...]) -> LabeledImage:
    if not patches:
        return example
    made = replace(_change(example), patches=patches)
    return replace(example, annotations=(*example.annotations, *notes), open=made)


def _names_colour(example: LabeledImage) -> bool:
    asked = (text for question in example.samples for text in (question.text or "", *_labels(question.answer)))
    return any(wording.has_colour(text) for text in (*_labels(example.annotations), *asked))


def _labels(notes: Sequence[Annotation]) -> Iterator[str]:
    return (note.label for note in notes)


def _whole(size: Size) -> View:
    return View(size, size, IDENTITY, (0, 0, *size))


def _seen(example: LabeledImage, view: View) -> LabeledImage:
    if view == _whole(example.size):
        return example
    notes, questions, complete = seen(example, view)
    width, height = view.size
    return replace(
        example, width=width, height=height, annotations=notes, samples=questions, complete=complete,
        open=Changed(view.size, ((example.open, view),)),
    )  # fmt: skip


def _view(
    example: LabeledImage, changes: Augment, rng: np.random.Generator, chance: Callable[[float], bool],
    others: Sequence[LabeledImage],
) -> View:  # fmt: skip
    size = example.size
    matrix = IDENTITY
    if chance(changes.flip) and _may_flip(example, others):
        matrix = (-1.0, 0.0, float(size[0]), 0.0, 1.0, 0.0)
    if chance(changes.rotate):
        matrix = then(matrix, _turn(math.radians(rng.uniform(-changes.degrees, changes.degrees)), size))
    if chance(changes.place):
        matrix = then(matrix, _smaller(size, changes.least, rng))
    elif chance(changes.crop):
        for _ in range(_TRIES):
            x, y, width, height = _part(size, changes.least, rng)
            shifted = then(matrix, (1.0, 0.0, -x, 0.0, 1.0, -y))
            cropped = View(size, (width, height), shifted, (0, 0, width, height))
            if _shows_something(example, cropped):
                return cropped
    return View(size, size, matrix, (0, 0, *size))


def _turn(angle: float, size: Size) -> Matrix:
    """Around the middle, clockwise."""
    x, y = size[0] / 2, size[1] / 2
    cos, sin = math.cos(angle), math.sin(angle)
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _smaller(size: Size, least: float, rng: np.random.Generator) -> Matrix:
    scale = float(rng.uniform(least, 1))
    x, y = (float(rng.uniform(0, side * (1 - scale))) for side in size)
    return scale, 0.0, x, 0.0, scale, y


def _part(size: Size, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """x, y, width, height of a part in whole pixels."""
    width, height = (
        max(min(_LEAST_PIXELS, side), round(side * float(share)))
        for side, share in zip(size, rng.uniform(least, 1, 2), strict=True)
    )
    return int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1)), width, height


def _shows_something(example: LabeledImage, view: View) -> bool:
    """Whether some thing that is labelled can still be seen; a picture with nothing but texts is not cropped, since
    nobody knows what they speak of."""
    shapes = [note for note in example.annotations if not isinstance(note, Text)]
    if not shapes:
        return not (example.annotations or example.samples)
    return any(see(note, view).note is not None for note in shapes)


def _may_flip(example: LabeledImage, others: Sequence[LabeledImage]) -> bool:
    """Not where there is writing, and not where a thing has a short name with a side in it that has no counterpart:
    arrows left and right are exchanged, a right whale is not."""
    answered = [note for question in example.samples for note in question.answer]
    if any(isinstance(note, Quad) for note in (*example.annotations, *answered)):
        return False
    if any("OCR" in question.task.token for question in example.samples):
        return False
    sided = {note.label for note in example.annotations if not isinstance(note, Text)}
    wanted = {wording.mirrored(name) for name in sided if wording.has_side(name) and not wording.is_phrase(name)}
    return not wanted or wanted <= {note.label for other in (example, *others) for note in other.annotations}


def _companions(
    example: LabeledImage, others: Sequence[LabeledImage], rng: np.random.Generator
) -> list[LabeledImage] | None:
    """Three others of which as much is known; None where they are not found, where the picture is too small for four,
    and where nothing but texts is known of it."""
    if not others or min(example.size) < 2 * _LEAST_PIXELS:
        return None
    if not example.complete and all(isinstance(note, Text) for note in example.annotations):
        return None
    found = list[LabeledImage]()
    for _ in range(3 * _TRIES):
        other = others[int(rng.integers(len(others)))]
        if other.complete >= example.complete and all(other is not one for one in (example, *found)):
            found.append(other)
        if len(found) == 3:
            return found
    return None


def _mosaic(example: LabeledImage, others: Sequence[LabeledImage], rng: np.random.Generator) -> LabeledImage:
    """Four pictures that meet somewhere near the middle, each covering its corner."""
    width, height = example.size
    x, y = (round(side * float(share)) for side, share in zip(example.size, rng.uniform(*_JOIN, 2), strict=True))
    windows = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    tiles = (example, *others)
    parts = [
        (tiles[i], _covering(tiles[i].size, example.size, window, rng))
        for i, window in zip(rng.permutation(4), windows, strict=True)
    ]
    notes, questions, complete = zip(*(seen(tile, view, alone=False) for tile, view in parts), strict=True)
    return replace(
        example,
        annotations=tuple(note for each in notes for note in each),
        samples=tuple(question for each in questions for question in each),
        complete=frozenset.intersection(*complete),
        open=Changed(example.size, tuple((tile.open, view) for tile, view in parts)),
    )


def _covering(source: Size, size: Size, window: tuple[int, int, int, int], rng: np.random.Generator) -> View:
    """As small as covers the window, at any place that does."""
    sides = window[2] - window[0], window[3] - window[1]
    scale = max(sides[0] / source[0], sides[1] / source[1])
    x, y = (window[k] - float(rng.random()) * (scale * source[k] - sides[k]) for k in (0, 1))
    return View(source, size, (scale, 0.0, x, 0.0, scale, y), window)
