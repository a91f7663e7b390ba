"""A dataset: the labeled images of one source, and the entries of the source that cannot be used."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from labels.labeled_image import LabeledImage
from prompts.class_lists import ClassList

_SHOWN = 5  # entries in the message of an error


class DatasetError(ValueError):
    """A dataset cannot be used. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class UnusableEntry:
    """An image or label that cannot be used. `source` is its file and line, such as `labels.json:12`."""

    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def list_reasons(entries: Sequence[UnusableEntry]) -> str:
    """Returns the first entries, one per line, for the message of an error."""
    lines = [f"  {entry}" for entry in entries[:_SHOWN]]
    if (more := len(entries) - _SHOWN) > 0:
        lines.append(f"  and {more} more")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Dataset:
    """The labeled images of one source, in its order.

    `unusable` lists what was left out, with reasons. `holdout` has the names of the images that the source itself keeps
    out of training. `format` is the name of the format that the source was recognized as. `class_list` has the classes
    that the source declares, if it does.
    """

    images: tuple[LabeledImage, ...]
    unusable: tuple[UnusableEntry, ...] = ()
    holdout: frozenset[str] = frozenset()
    format: str = ""
    class_list: ClassList | None = None

    @property
    def training_images(self) -> tuple[LabeledImage, ...]:
        """All images that are not in the holdout."""
        return tuple(image for image in self.images if image.name not in self.holdout)

    @property
    def evaluation_images(self) -> tuple[LabeledImage, ...]:
        """The holdout; all images if the source has no holdout."""
        return tuple(image for image in self.images if image.name in self.holdout) or self.images

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of boxes and polygons, the most frequent first, then by name."""
        counts = Counter(
            annotation.label
            for image in self.images
            for annotation in image.annotations
            if annotation.kind in ("box", "polygon")
        )
        return tuple(sorted(counts, key=lambda label: (-counts[label], label)))
