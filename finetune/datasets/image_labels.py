"""The labels of one image by kind, in the form that samples are made of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

import numpy as np

from finetune.datasets import wording
from labels.geometry import bounding_box, box_area
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Polygon, Quad, Text

ObjectOrder = Literal["left-to-right", "size", "given", "random"]
ObjectShape = Box | Polygon
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ImageLabels:
    """An image with its labels by kind, and the random choices of its samples.

    `objects` are in the order of the answers; words and captions without letters are left out. `classes`: those of the
    dataset.
    """

    image: LabeledImage
    objects: Sequence[ObjectShape]
    words: Sequence[Quad]
    captions: Sequence[str]
    classes: Sequence[str]
    rng: np.random.Generator

    @classmethod
    def from_image(
        cls, image: LabeledImage, classes: Sequence[str], rng: np.random.Generator, order: ObjectOrder
    ) -> Self:
        """Groups the annotations of an image by kind."""
        return cls(
            image,
            sort_objects([a for a in image.annotations if isinstance(a, Box | Polygon)], order, rng),
            [a for a in image.annotations if isinstance(a, Quad) and a.label.strip()],
            [a.label for a in image.annotations if isinstance(a, Text) and a.label.strip()],
            classes,
            rng,
        )

    @property
    def polygons(self) -> list[Polygon]:
        """The objects with an outline."""
        return [shape for shape in self.objects if isinstance(shape, Polygon)]

    @property
    def has_all_objects(self) -> bool:
        """Whether every object in the image is labeled."""
        return LabelKind.OBJECTS in self.image.complete

    @property
    def has_all_words(self) -> bool:
        """Whether every word in the image is labeled, and each with its letters."""
        quads = sum(isinstance(a, Quad) for a in self.image.annotations)
        return LabelKind.WORDS in self.image.complete and len(self.words) == quads

    @property
    def all_named(self) -> bool:
        """Whether every labeled object has a class."""
        return all(shape.label for shape in self.objects)

    @property
    def named_objects(self) -> list[ObjectShape]:
        """The objects that have a class."""
        return [shape for shape in self.objects if shape.label]

    @property
    def described_objects(self) -> list[ObjectShape]:
        """The objects whose label is a description (`small orange cat`)."""
        return [shape for shape in self.objects if wording.is_phrase(shape.label)]

    @property
    def by_class(self) -> dict[str, list[ObjectShape]]:
        """The objects of each class."""
        groups: dict[str, list[ObjectShape]] = {}
        for shape in self.named_objects:
            groups.setdefault(shape.label, []).append(shape)
        return groups

    @property
    def unique_polygons(self) -> list[Polygon]:
        """The polygons whose class no other object in the image has."""
        counts = Counter(shape.label.casefold() for shape in self.objects)
        return [shape for shape in self.polygons if shape.label and counts[shape.label.casefold()] == 1]

    @property
    def absent_classes(self) -> list[str]:
        """The classes of the dataset that are known not to be in the image."""
        if not self.has_all_objects or not self.all_named:
            return []
        present = {label.casefold() for label in self.by_class}
        return [label for label in self.classes if label.casefold() not in present]

    @property
    def can_search(self) -> bool:
        """Whether there is a class to search for: one in the image, or one that is known to be absent."""
        return bool(self.by_class) or (self.has_all_objects and self.all_named)

    def happens(self, probability: float) -> bool:
        """Returns True with a probability."""
        return bool(self.rng.random() < probability)

    def choose(self, choices: Sequence[T]) -> T:
        """Returns a random element."""
        return choices[int(self.rng.integers(len(choices)))]


def sort_objects(shapes: Sequence[ObjectShape], order: ObjectOrder, rng: np.random.Generator) -> list[ObjectShape]:
    """Sorts objects for an answer: by x1, then y1; the largest first; as given; or at random."""
    match order:
        case "left-to-right":
            return sorted(shapes, key=bounding_box)
        case "size":
            return sorted(shapes, key=lambda shape: (-box_area(bounding_box(shape)), bounding_box(shape)))
        case "random":
            return [shapes[i] for i in rng.permutation(len(shapes))]
        case "given":
            return list(shapes)
