"""Builds a dataset from the images and labels that a reader finds, and records entries that cannot be used."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

from labels.dataset import Dataset, DatasetError, UnusableEntry, list_reasons
from labels.image_files import EncodedImage, ImageFile, read_size
from labels.images import ImageError
from labels.label_kind import LabelKind, get_label_kind
from labels.labeled_image import LabeledImage
from labels.reading.checks import LabelError, Size
from labels.sample import Sample
from prompts.annotations import Annotation

P = ParamSpec("P")


@dataclass
class ImageDraft:
    """An image whose labels are being read."""

    builder: "DatasetBuilder"
    name: str
    source: str
    size: Size
    open: EncodedImage
    annotations: list[Annotation] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    incomplete: set[LabelKind] = field(default_factory=set)
    """Kinds with a label that could not be used, so that not everything is known."""
    complete: set[LabelKind] | None = None
    """Kinds for which everything is labeled, if the source says so; None: the kinds that occur in the dataset."""
    refused: bool = False

    @property
    def path(self) -> Path:
        """The image's file. Raises TypeError if the image is not a file of its own."""
        if not isinstance(self.open, ImageFile):
            raise TypeError(f"{self.name} is not a file")
        return self.open.path

    def add(
        self,
        kind: LabelKind,
        source: str,
        make: Callable[P, Annotation],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Annotation | None:
        """Adds the annotation that `make` returns for the arguments, and returns it.

        If `make` raises LabelError, the label is refused, and None is returned.
        """
        try:
            annotation = make(*args, **kwargs)
        except LabelError as error:
            self.refuse_label(kind, source, str(error))
            return None
        self.annotations.append(annotation)
        return annotation

    def refuse_label(self, kind: LabelKind, source: str, reason: str) -> None:
        """Records a label that cannot be used. The image is then no longer complete for labels of this kind."""
        self.incomplete.add(kind)
        self.refused = True
        self.builder.refuse(source, reason)


class DatasetBuilder:
    """Builds the dataset at `path`. `partial`: whether the labels do not cover everything that the images show."""

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self.path, self.partial = path, partial
        self._drafts: dict[str, ImageDraft] = {}  # by name
        self._unusable: list[UnusableEntry] = []

    def refuse(self, source: str, reason: str) -> None:
        """Records an image or label that cannot be used."""
        self._unusable.append(UnusableEntry(source, reason))

    def add_image(self, name: str, source: str, image: EncodedImage, size: Size | None = None) -> ImageDraft | None:
        """Returns a draft to add labels to.

        Returns None, and records the reason, if the image is missing or broken, if its size is not the `size` (width,
        height) that its labels were made for, or if an earlier image has the same name.
        """
        if (earlier := self._drafts.get(name)) is not None:
            self.refuse(source, f"its image {name!r} has been described already: {earlier.source}")
            return None
        try:
            actual = read_size(image)
        except (OSError, ImageError) as error:
            self.refuse(source, describe_error(error))
            return None
        if size is not None and size != actual:
            rotated = "; EXIF rotates it: save it upright" if size == actual[::-1] else ""
            self.refuse(
                source,
                f"its labels are for {size[0]}×{size[1]} pixels, its image has {actual[0]}×{actual[1]}{rotated}",
            )
            return None
        draft = self._drafts[name] = ImageDraft(self, name, source, actual, image)
        return draft

    def build(self) -> Dataset:
        """Returns the dataset.

        A kind of label that occurs in the dataset is complete in every image without a refused label of that kind.
        Images without any information are left out. Raises DatasetError if no image is left.
        """
        occurring = {get_label_kind(a) for draft in self._drafts.values() for a in draft.annotations}
        occurring = set() if self.partial else occurring - {LabelKind.CAPTIONS}
        images = []
        for draft in self._drafts.values():
            complete = frozenset((occurring if draft.complete is None else draft.complete) - draft.incomplete)
            if not (draft.annotations or draft.samples or complete):
                if not draft.refused:
                    self.refuse(draft.source, "it has no labels")
                continue
            annotations, samples = tuple(draft.annotations), tuple(draft.samples)
            images.append(
                LabeledImage(draft.name, draft.source, *draft.size, annotations, draft.open, complete, samples)
            )
        if not images:
            if not self._unusable:
                raise DatasetError(f"{self.path} has no labeled images")
            raise DatasetError(f"{self.path} has nothing that can be used:\n{list_reasons(self._unusable)}")
        return Dataset(tuple(images), tuple(self._unusable))


def describe_error(error: Exception) -> str:
    """Returns the message without the operating system's error number."""
    with suppress(AttributeError):
        if isinstance(error, OSError) and error.strerror:
            return f"{error.strerror}: {error.filename}"
    return str(error)
