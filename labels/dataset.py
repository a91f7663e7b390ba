"""One labelled picture, whatever file format it came from: what `teaching` makes questions of."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Self

from PIL import Image

from labels.sample import Question
from prompts.annotations import Annotation


class DatasetError(ValueError):
    """A dataset that cannot be used; the message says why, and what to do."""


class Labels(StrEnum):
    """A kind of label that a picture may be labelled with."""

    OBJECTS = "objects"  # boxes and polygons of things
    WORDS = "words"  # quads of writing
    CAPTIONS = "captions"  # sentences on the whole picture


@dataclass(frozen=True, slots=True)
class Example:
    """A picture and what is known of it.

    `name` tells it apart within its dataset; `source`: the file and line that it came from, for errors; `width` and
    `height` as a viewer shows it, EXIF applied, and all shapes in those pixels. `annotations`: a Box or Polygon is an
    object, a Quad is writing, a Text is a caption. `complete`: the kinds of which all that the picture shows is
    labelled, so that what is not there is known to be absent; an empty picture of a detection dataset has no
    annotations and `complete` objects. `questions`: prompts that came with their answers, beside what the annotations
    can teach. `open` gives the picture, RGB; it may raise OSError, and PictureError for one that is broken.
    """

    name: str
    source: str
    width: int
    height: int
    annotations: tuple[Annotation, ...]
    open: Callable[[], Image.Image] = field(compare=False, repr=False)
    complete: frozenset[Labels] = frozenset()
    questions: tuple[Question, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.width, self.height

    def labelled(self, *annotations: Annotation) -> Self:
        """The same picture with other annotations."""
        return replace(self, annotations=annotations)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A picture or label that cannot be used: `source` is its file and line (`labels.json:12`)."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of one source, in its order; `unusable`: what was left out of it, each with the reason; `held`: the
    names of those that are never taught, where the source itself says which."""

    examples: tuple[Example, ...]
    unusable: tuple[Unusable, ...] = ()
    held: frozenset[str] = frozenset()

    @property
    def taught(self) -> tuple[Example, ...]:
        """Those that may be."""
        return tuple(example for example in self.examples if example.name not in self.held)

    @property
    def judging(self) -> tuple[Example, ...]:
        """Those to judge by: what is held out, or, where the source holds out none, all."""
        return tuple(example for example in self.examples if example.name in self.held) or self.examples

    @property
    def labels(self) -> tuple[str, ...]:
        """The objects' labels, the most frequent first, then by name."""
        counts: dict[str, int] = {}
        for example in self.examples:
            for note in example.annotations:
                if note.kind in ("box", "polygon"):
                    counts[note.label] = counts.get(note.label, 0) + 1
        return tuple(sorted(counts, key=lambda label: (-counts[label], label)))
