"""Things of other pictures put into a picture, each name as often as any other: simple copy-paste (Ghiasi et al., CVPR
2021, arXiv:2012.07177), so that what is rare is seen more often, and on other grounds."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.datasets import wording
from finetune.datasets.affine_view import View, see
from labels.geometry import Rectangle, bounding_box, box_area, intersection_area, to_points, transform_rings
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

_MOST = 3  # things put into one picture
_TRIES = 8  # at finding room
_SCALES = (0.55, 1.65)  # of a thing, beside how large it was in its own picture
_LARGEST = 0.6  # of the picture's shorter side
_LEAST_PIXELS = 12  # of a thing's side
_COVERED = 0.08  # how much of each other two things may hide, as a share of the smaller
_ALONE = 0.02  # and one of a thing that is shown elsewhere: more would come along with it

Shape = Box | Polygon


@dataclass(frozen=True, slots=True)
class Patch:
    """What a view shows of another picture, laid over one: what `rings` hold, in pixels of the picture below; without
    them the whole window, its edges soft, as a seam would say where it is (Dwibedi et al., ICCV 2017,
    arXiv:1708.01642)."""

    open: Callable[[], Image.Image]
    view: View
    rings: tuple[tuple[float, ...], ...] = ()

    def paint(self, below: Image.Image) -> None:
        """Onto the picture below, in place."""
        left, top, *_ = self.view.window
        image = self.view.paint(self.open())
        mask = Image.new("L", image.size, 0)
        draw = ImageDraw.Draw(mask)
        for ring in self.rings:
            # Pillow speaks of the middles of pixels.
            draw.polygon([(x - left - 0.5, y - top - 0.5) for x, y in to_points(ring)], 255)
        if not self.rings:
            (width, height), soft = image.size, max(1, min(image.size) // 16)
            inner = (soft, soft, width - 1 - soft, height - 1 - soft)
            draw.rounded_rectangle(inner, min(image.size) // 6, 255)
            mask = mask.filter(ImageFilter.GaussianBlur(soft))
        below.paste(image, (left, top), mask)


class Things:
    """What of labelled pictures may be shown in others: objects that are whole, and alone in their box."""

    def __init__(self, examples: Iterable[LabeledImage]) -> None:
        self._by_name: dict[type[Shape], dict[str, list[tuple[LabeledImage, Shape]]]] = {Box: {}, Polygon: {}}
        for example in examples:
            for shape in _whole(example):
                self._by_name[type(shape)].setdefault(shape.label, []).append((example, shape))

    def put_into(
        self, example: LabeledImage, rng: np.random.Generator, *, flip: bool
    ) -> tuple[tuple[Annotation, ...], tuple[Patch, ...]]:
        """Labels and looks of some things that find room; none where something is said of the whole picture, where
        nobody knows what it shows, and where things are labelled otherwise. `flip`: whether they may be mirrored."""
        shapes = [note for note in example.annotations if isinstance(note, Box | Polygon)]
        said = example.samples or any(isinstance(note, Text) for note in example.annotations)
        if said or not (shapes or LabelKind.OBJECTS in example.complete):
            return (), ()
        kinds = {type(shape) for shape in shapes} or {kind for kind, known in self._by_name.items() if known}
        if len(kinds) != 1:
            return (), ()
        known = self._by_name[kinds.pop()]
        names, taken = list(known), [bounding_box(note) for note in example.annotations if not isinstance(note, Text)]
        notes, patches = list[Annotation](), list[Patch]()
        for _ in range(int(rng.integers(1, _MOST + 1)) if names else 0):
            things = known[names[int(rng.integers(len(names)))]]
            other, shape = things[int(rng.integers(len(things)))]
            view = _view(other, shape, example, taken, rng, flip and rng.random() < 0.5)
            # Words that the other may show are labelled here no more than there.
            if view is None or not other.complete >= example.complete or (note := see(shape, view).note) is None:
                continue
            rings = transform_rings(shape.polygons, view.move) if isinstance(shape, Polygon) else []
            notes.append(note)
            patches.append(Patch(other.open, view, tuple(tuple(ring) for ring in rings)))
            taken.append(view.window)
        return tuple(notes), tuple(patches)


def _whole(example: LabeledImage) -> Iterator[Shape]:
    """The objects that no border cuts and nothing else reaches into, whose label is true elsewhere too."""
    notes = [(note, bounding_box(note)) for note in example.annotations if isinstance(note, Box | Polygon | Quad)]
    for note, box in notes:
        inside = min(box[0], box[1], example.width - box[2], example.height - box[3]) >= 1
        if isinstance(note, Quad) or not inside or wording.has_place(note.label):
            continue
        if all(other is note or intersection_area(box, beside) <= _ALONE * box_area(box) for other, beside in notes):
            yield note


def _view(
    other: LabeledImage,
    shape: Shape,
    example: LabeledImage,
    taken: Sequence[Rectangle],
    rng: np.random.Generator,
    mirror: bool,
) -> View | None:
    """Which shows nothing but the shape, somewhere where there is room; None where none is found."""
    x1, y1, x2, y2 = bounding_box(shape)
    wide, high, side = x2 - x1, y2 - y1, min(example.size)
    least, most = map(math.log, _SCALES)
    scale = side / min(other.size) * math.exp(rng.uniform(least, most))
    scale = min(scale, _LARGEST * side / max(wide, high))
    width, height = round(wide * scale), round(high * scale)
    if min(width, height) < _LEAST_PIXELS:
        return None
    for _ in range(_TRIES):
        left, top = (int(rng.integers(room - own + 1)) for room, own in zip(example.size, (width, height), strict=True))
        window = (left, top, left + width, top + height)
        if all(intersection_area(window, box) <= _COVERED * min(box_area(window), box_area(box)) for box in taken):
            break
    else:
        return None
    a, e = width / wide, height / high
    across = (-a, left + a * x2) if mirror else (a, left - a * x1)
    return View(other.size, example.size, (across[0], 0.0, across[1], 0.0, e, top - e * y1), window)
