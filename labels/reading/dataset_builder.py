"""Builds a dataset from the images and labels that a reader finds, and records entries that cannot be used."""

import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from labels.dataset import Dataset, DatasetError, UnusableEntry, list_reasons
from labels.image_files import EncodedImage, ImageFile, read_size
from labels.image_resolver import FoundImage, describe_broken_link
from labels.images import ImageError
from labels.label_kind import LabelKind, get_label_kind
from labels.labeled_image import LabeledImage
from labels.reading.checks import Size
from labels.reading.details import add_details
from labels.reading.image_draft import ImageDraft
from labels.reading.orientation import TRANSPOSED, UPRIGHT, describe_wrong_size, read_orientation
from prompts.annotations import Box, Polygon


class DatasetBuilder:
    """Builds the dataset at `path`. `partial`: whether the labels do not cover everything that the images show."""

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self.path, self.partial = path, partial
        self._drafts: dict[str, ImageDraft] = {}  # by name
        self._by_file: dict[str, ImageDraft] = {}
        self._refused_files = set[str]()  # with labels that cannot be used
        self._has_stored_labels = False  # labels for stored pixels that EXIF turns
        self._noted = set[tuple[str, str]]()
        self._missing = set[str]()  # reasons
        self._unusable: list[UnusableEntry] = []

    def refuse(self, source: str, reason: str) -> None:
        """Records an image or label that cannot be used."""
        self._unusable.append(UnusableEntry(source, reason))

    def refuse_missing(self, source: str, reason: str) -> None:
        """Records an image that is missing: once, since several files of a dataset may describe it."""
        if reason not in self._missing:
            self._missing.add(reason)
            self.refuse(source, reason)

    def refuse_description(self, file: Path, source: str, reason: str) -> None:
        """Records labels that may be about an image, which then counts as incompletely labeled."""
        self._refused_files.add(os.path.realpath(file))
        self.refuse(source, reason)

    def note_once(self, source: str, reason: str) -> None:
        """Records what is not used of many labels of a file, such as an attribute, when it occurs first."""
        if (source, reason) not in self._noted:
            self._noted.add((source, reason))
            self.refuse(source, reason)

    def add_found(
        self, found: FoundImage, source: str, size: Size | None = None, *, prefix: str = ""
    ) -> ImageDraft | None:
        """Same as `add_image`, for the file that was found for an image. `prefix` goes before the image's name.

        A file that is where one image's name says is not the file of another one that has been moved, and a file that
        fits two moved images is the file of neither.
        """
        file, stated = os.path.realpath(found.path), found.stated or found.name
        draft = self._by_file.get(file)
        if draft is not None and draft.moved_from != found.moved_from:
            if draft.moved_from and draft.name in self._drafts:
                del self._drafts[draft.name]
                self.refuse(draft.source, _describe_claims(draft.moved_from, found.path, source))
            if found.moved_from:
                self.refuse(source, _describe_claims(found.moved_from, found.path, draft.source))
                return None
            del self._by_file[file]
        elif draft is not None and _are_two_images(stated, draft.stated, found.path):
            reason = f"it may be about {draft.stated} or about {stated}, which are both found as {found.path}"
            for each in (draft.source, source):
                self.refuse(each, f"{reason}: put the images where their names say, in one folder")
            self._drafts.pop(draft.name, None)
            return None
        draft = self._add(prefix + found.name, source, ImageFile(found.path), size, file)
        if draft is not None:
            draft.moved_from, draft.stated = found.moved_from, draft.stated or stated
        return draft

    def add_image(self, name: str, source: str, image: EncodedImage, size: Size | None = None) -> ImageDraft | None:
        """Returns a draft to add labels to: for a file that has been described already, the same draft.

        Returns None, and records the reason, if the image is missing or broken, if its size is not the `size` (width,
        height) that its labels were made for, or if an earlier image has the same name and is another file.
        """
        file = os.path.realpath(image.path) if isinstance(image, ImageFile) else None
        return self._add(name, source, image, size, file)

    def _add(
        self, name: str, source: str, image: EncodedImage, size: Size | None, file: str | None
    ) -> ImageDraft | None:
        """Same as `add_image`. `file`: the resolved path of an image file."""
        draft = self._by_file.get(file) if file is not None else None
        if draft is None:
            if (earlier := self._drafts.get(name)) is not None:
                self.refuse(source, f"its image {name!r} has been described already: {earlier.source}")
                return None
            try:
                actual = read_size(image)
            except (OSError, ImageError) as error:
                self.refuse(source, describe_error(error))
                return None
        else:
            actual = draft.size
        if size is not None and size != actual:
            self.refuse(source, describe_wrong_size(image, size, actual))
            if file is not None:
                self._refused_files.add(file)
            self._has_stored_labels |= size == actual[::-1] and read_orientation(image) in TRANSPOSED
            return None
        if draft is None:
            draft = self._drafts[name] = ImageDraft(self, name, source, actual, image)
            if file is not None:
                self._by_file[file] = draft
        draft.states_size |= size is not None
        return draft

    def build(self) -> Dataset:
        """Returns the dataset.

        A kind of label that occurs in the dataset is complete in every image without a refused label of that kind.
        Images without any information are left out. Raises DatasetError if no image is left.
        """
        add_details(self.path, self._drafts)
        self._finish_drafts()
        occurring = {get_label_kind(a) for draft in self._drafts.values() for a in draft.annotations}
        occurring = set() if self.partial else occurring - {LabelKind.CAPTIONS}
        images = []
        for draft in self._drafts.values():
            complete = frozenset(draft.find_complete_kinds(occurring))
            if not (draft.annotations or draft.samples or draft.regions or complete):
                if not draft.refused:
                    self.refuse(draft.source, "it has no labels")
                continue
            annotations, samples = tuple(draft.annotations), tuple(draft.samples)
            image = LabeledImage(draft.name, draft.source, *draft.size, annotations, draft.open, complete, samples)
            images.append(replace(image, traces=draft.list_traces(), regions=tuple(draft.regions)))
        if not images:
            if not self._unusable:
                raise DatasetError(f"{self.path} has no labeled images")
            raise DatasetError(f"{self.path} has nothing that can be used:\n{list_reasons(self._unusable)}")
        return Dataset(tuple(images), tuple(self._unusable))

    def _finish_drafts(self) -> None:
        """Subtracts from the images what became uncertain by labels that are known only after reading everything."""
        drafts = list(self._drafts.values())
        classes = {a.label for draft in drafts for a in draft.annotations if isinstance(a, Box | Polygon)}
        for draft in drafts:
            draft.finish(classes)
        for file in self._refused_files & self._by_file.keys():
            self._by_file[file].incomplete.update(LabelKind)
        if self._has_stored_labels:
            self._refuse_turned(drafts)

    def _refuse_turned(self, drafts: Collection[ImageDraft]) -> None:
        """Refuses images that EXIF turns too, unless the size that their labels state is that of the upright image."""
        for draft in drafts:
            orientation = read_orientation(draft.open)
            is_known = draft.states_size and orientation in TRANSPOSED and draft.size[0] != draft.size[1]
            if orientation != UPRIGHT and not is_known:
                del self._drafts[draft.name]
                self.refuse(
                    draft.source,
                    "its EXIF orientation turns it, and labels of other images here are for the stored pixels: remove "
                    "the orientation, for example by `exiftool -Orientation= FILE`",
                )


def _are_two_images(name: str, other: str, found: Path) -> bool:
    """Returns whether two names that lead to the same file are those of two images, such as a.jpg and images/a.jpg.

    They are if there is another file that one of them may name as well: a.jpg beside images, or images/images/a.jpg.
    """
    short, long = sorted((name, other), key=len)
    path = found.as_posix()
    if not long.endswith(f"/{short}") or not path.endswith(f"/{long}"):
        return False
    return any(Path(path.removesuffix(each) + rest).is_file() for each, rest in ((short, long), (long, short)))


def _describe_claims(name: str, file: Path, other: str) -> str:
    return f"there is no image {name[:200]!r}; the only file like it, {file.name}, is also the image of {other}"


def describe_error(error: Exception) -> str:
    """Returns the message without the operating system's error number."""
    with suppress(AttributeError):
        if isinstance(error, OSError) and error.strerror:
            if error.filename and (reason := describe_broken_link(Path(error.filename))):
                return f"{error.filename} is {reason}"
            return f"{error.strerror}: {error.filename}"
    return str(error)
