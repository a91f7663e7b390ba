"""Copy-paste augmentation: objects of other images pasted into an image.

Simple copy-paste (Ghiasi et al., CVPR 2021, arXiv:2012.07177). Each class is chosen equally often, so that rare classes
are seen more often and on other backgrounds.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from finetune.datasets import wording
from finetune.datasets.affine_view import AffineView, view_annotation
from labels.geometry import Rectangle, bounding_box, box_area, intersection_area, to_points, transform_rings
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation, Box, Polygon, Quad, Text

_MAX_OBJECTS = 3  # pasted into one image
_MAX_TRIES = 8  # to find a free place
_SCALES = (0.55, 1.65)  # relative to the object's size in its own image
_MAX_SIDE = 0.6  # of the shorter side of the image
_MIN_PIXELS = 12  # of an object's side
_MAX_COVERED = 0.08  # overlap with another object, as a share of the smaller one
_MAX_FOREIGN = 0.02  # share of an object's box that other objects cover in its own image

ObjectShape = Box | Polygon


@dataclass(frozen=True, slots=True)
class Patch:
    """An object of another image, to be pasted.

    `view` shows it; `rings` are its outline in pixels of the canvas. Without an outline the whole window is pasted with
    soft edges, since a sharp edge would give the object away (Dwibedi et al., ICCV 2017, arXiv:1708.01642).
    """

    open: Callable[[], Image.Image]
    view: AffineView
    rings: tuple[tuple[float, ...], ...] = ()

    def paste_into(self, canvas: Image.Image) -> None:
        """Pastes the object into `canvas`, in place."""
        left, top, *_ = self.view.window
        image = self.view.render(self.open())
        mask = Image.new("L", image.size, 0)
        draw = ImageDraw.Draw(mask)
        for ring in self.rings:
            # Pillow's coordinates are those of pixel centers.
            draw.polygon([(x - left - 0.5, y - top - 0.5) for x, y in to_points(ring)], 255)
        if not self.rings:
            (width, height), soft = image.size, max(1, min(image.size) // 16)
            inner = (soft, soft, width - 1 - soft, height - 1 - soft)
            draw.rounded_rectangle(inner, min(image.size) // 6, 255)
            mask = mask.filter(ImageFilter.GaussianBlur(soft))
        canvas.paste(image, (left, top), mask)


class ObjectBank:
    """The objects of labeled images that can be pasted: they are not cut, and no other object overlaps them."""

    def __init__(self, images: Iterable[LabeledImage]) -> None:
        self._by_class: dict[type[ObjectShape], dict[str, list[tuple[LabeledImage, ObjectShape]]]] = {
            Box: {}, Polygon: {},
        }  # fmt: skip
        for image in images:
            for shape in _find_pastable(image):
                self._by_class[type(shape)].setdefault(shape.label, []).append((image, shape))

    def choose_objects(
        self, image: LabeledImage, rng: np.random.Generator, *, flip: bool
    ) -> tuple[tuple[Annotation, ...], tuple[Patch, ...]]:
        """Chooses objects for which the image has room, and returns their annotations and patches.

        Returns none for an image with texts or samples, which could become wrong, for one with unknown content, and for
        one that is labeled with both boxes and polygons. `flip`: whether objects may be mirrored.
        """
        shapes = [a for a in image.annotations if isinstance(a, Box | Polygon)]
        has_text = image.samples or any(isinstance(a, Text) for a in image.annotations)
        if has_text or not (shapes or LabelKind.OBJECTS in image.complete):
            return (), ()
        kinds = {type(shape) for shape in shapes} or {kind for kind, objects in self._by_class.items() if objects}
        if len(kinds) != 1:
            return (), ()
        objects = self._by_class[kinds.pop()]
        classes, taken = list(objects), [bounding_box(a) for a in image.annotations if not isinstance(a, Text)]
        annotations, patches = list[Annotation](), list[Patch]()
        for _ in range(int(rng.integers(1, _MAX_OBJECTS + 1)) if classes else 0):
            candidates = objects[classes[int(rng.integers(len(classes)))]]
            other, shape = candidates[int(rng.integers(len(candidates)))]
            view = _find_place(other, shape, image, taken, rng, flip and rng.random() < 0.5)
            # What the other image shows without a label, such as words, must be unlabeled in this image too.
            if view is None or not other.complete >= image.complete:
                continue
            annotation = view_annotation(shape, view).annotation
            if annotation is None:
                continue
            rings = transform_rings(shape.polygons, view.move) if isinstance(shape, Polygon) else []
            annotations.append(annotation)
            patches.append(Patch(other.open, view, tuple(tuple(ring) for ring in rings)))
            taken.append(view.window)
        return tuple(annotations), tuple(patches)


def _find_pastable(image: LabeledImage) -> Iterator[ObjectShape]:
    """Yields the objects that no border cuts and no other shape overlaps, with a label that is true elsewhere too."""
    shapes = [(a, bounding_box(a)) for a in image.annotations if isinstance(a, Box | Polygon | Quad)]
    for shape, box in shapes:
        inside = min(box[0], box[1], image.width - box[2], image.height - box[3]) >= 1
        if isinstance(shape, Quad) or not inside or wording.mentions_place(shape.label):
            continue
        limit = _MAX_FOREIGN * box_area(box)
        if all(other is shape or intersection_area(box, other_box) <= limit for other, other_box in shapes):
            yield shape


def _find_place(
    other: LabeledImage, shape: ObjectShape, image: LabeledImage, taken: Sequence[Rectangle],
    rng: np.random.Generator, mirror: bool,
) -> AffineView | None:  # fmt: skip
    """Returns a view of nothing but the shape at a free place of the image; None if there is no room."""
    x1, y1, x2, y2 = bounding_box(shape)
    own_width, own_height, side = x2 - x1, y2 - y1, min(image.size)
    low, high = map(math.log, _SCALES)
    scale = side / min(other.size) * math.exp(rng.uniform(low, high))
    scale = min(scale, _MAX_SIDE * side / max(own_width, own_height))
    width, height = round(own_width * scale), round(own_height * scale)
    if min(width, height) < _MIN_PIXELS:
        return None
    for _ in range(_MAX_TRIES):
        left, top = (int(rng.integers(room - own + 1)) for room, own in zip(image.size, (width, height), strict=True))
        window = (left, top, left + width, top + height)
        if all(intersection_area(window, box) <= _MAX_COVERED * min(box_area(window), box_area(box)) for box in taken):
            break
    else:
        return None
    a, e = width / own_width, height / own_height
    across = (-a, left + a * x2) if mirror else (a, left - a * x1)
    return AffineView(other.size, image.size, (across[0], 0.0, across[1], 0.0, e, top - e * y1), window)
