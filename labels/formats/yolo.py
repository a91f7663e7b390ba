"""YOLO, as Ultralytics reads it; https://docs.ultralytics.com/datasets/.

data.yaml, and for each image in images/ a file with the same name in labels/. It has a line for each object: the number
of its class, and fractions of the image's width and height. Four fractions are a box, six or more a polygon (or an
oriented box), and keypoints are left out. Names of classes are text as it is written, such as yes, 007 and null. Label
Studio and labelImg write classes.txt instead of data.yaml, Darknet obj.data and obj.names. The writers use
images/train/ and labels/train/. The classes are those of the objects; scores, attributes, captions, words and, in
`yolo-segment`, objects without an outline are in details.jsonl.
"""

import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import yaml

from labels.dataset import Dataset, DatasetError
from labels.formats.yolo_descriptions import CLASSES, Description, find_descriptions, get_root, read_description
from labels.formats.yolo_lines import read_line
from labels.geometry import bounds, to_rings
from labels.image_folders import ImageFolders
from labels.image_index import fold_name, list_image_files
from labels.image_resolver import FoundImage, ImageResolver, remove_upload_prefix
from labels.image_suffixes import is_image_suffix
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.documents import decode_text, read_lines
from labels.writing.categories import CategoryIds, describe_kind, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_names import replace_suffix
from labels.writing.image_options import ImageOptions, ImagePlacement
from prompts.annotations import Box, Polygon

_LINE = re.compile(r"\s*\d+([\s,;]+-?[\d.][\d.eE+-]*){4,}\s*$")
_UNREAD_SUFFIXES = (".gif", ".ppm", ".pgm", ".jpe", ".jfif")
_HEADER = "# There is no validation split: split images/ and labels/ before you trust a metric.\n"


def recognize(source: DatasetSource) -> bool:
    """Returns whether the source has a description such as data.yaml, or is a part of a dataset that has one."""
    return bool(find_descriptions(source.path))


def read(source: DatasetSource) -> Dataset:
    """Returns the images of the source: a dataset with all its splits, or a folder or list of images in a dataset.

    Raises DatasetError.
    """
    builder = DatasetBuilder(source.folder)
    files, readers = find_descriptions(source.path), []
    for file in files:
        description = read_description(file)
        splits = description.splits
        if source.path != file and (source.path.is_file() or not file.is_relative_to(source.path)):
            splits = [("", source.path.name, source.path)]  # a part of the dataset
        root = get_root(file) if len(files) == 1 else source.path
        readers.append(_YoloReader(builder, description, ImageResolver(root)))
        readers[-1].read(splits)
    if not any(reader.images or reader.has_lists for reader in readers):
        places = ", ".join(dict.fromkeys(str(path) for reader in readers for path in reader.places))
        raise DatasetError(f"{files[0]} names no folder with images: {places or 'no folder at all'}")
    return builder.build()


class _YoloReader:
    """Reads what one description describes. Names of images are relative to the resolver's folder."""

    def __init__(self, builder: DatasetBuilder, description: Description, resolver: ImageResolver) -> None:
        self._builder, self._description, self._resolver = builder, description, resolver
        self.images: dict[Path, FoundImage] = {}
        self.places: list[Path] = []
        self.has_lists = False
        self._missing_labels = set[Path]()  # of images that are listed and missing

    def read(self, splits: Sequence[tuple[str, str, Path]]) -> None:
        """Reads folders and lists of images."""
        for key, entry, path in splits:
            self.places.append(path)
            if path.is_dir():
                is_root = path == get_root(self._description.file)
                for image in list_image_files(path, skip_labels=is_root):
                    self._add_image(image)
            elif path.suffix == ".txt" and path.is_file():
                self._read_list(path)
                self.has_lists = True
            else:
                self._builder.refuse(f"{self._description.file.name}: {key}", f"there is no {entry!r}")
        labels: dict[Path, list[Path]] = {}
        for image in self.images:
            labels.setdefault(_find_labels(image), []).append(image)
        orphans = self._list_orphans(labels, is_part=not all(key for key, _, _ in splits))
        self._pair_by_spelling(labels, orphans)
        for path, images in labels.items():
            self._read_images(path, images)
        for path in orphans:
            if path not in labels and path not in self._missing_labels:
                self._builder.refuse(self._to_name(path), "its image is missing")
        if self._description.has_keypoints:
            self._builder.note_once(self._description.file.name, "keypoints are not used; boxes are")

    def _add_image(self, image: Path, moved_from: str = "") -> None:
        path = Path(os.path.normpath(image.absolute()))
        self.images.setdefault(path, FoundImage(path, self._to_name(path), moved_from))  # maybe of several splits

    def _read_list(self, path: Path) -> None:
        folders = ImageFolders.from_folders(path.parent, get_root(self._description.file))
        for number, name in enumerate(read_lines(path, "replace"), 1):
            if name:
                where = f"{self._to_name(path)}:{number}"
                try:
                    found = self._resolver.find(name, folders)
                except OSError as error:
                    self._builder.refuse_missing(where, str(error))
                    for folder in (path.parent, get_root(self._description.file)):
                        self._missing_labels.add(_find_labels(Path(os.path.normpath((folder / name).absolute()))))
                    continue
                earlier = self.images.get(Path(os.path.normpath(found.path)))
                if earlier and found.moved_from and earlier.moved_from != found.moved_from:
                    file = self._to_name(found.path)
                    self._builder.refuse(where, f"there is no image {name!r}; only {file} is like it, which is listed")
                else:
                    self._add_image(found.path, found.moved_from)

    def _read_images(self, labels: Path, images: list[Path]) -> None:
        where = self._to_name(labels)
        try:
            text = decode_text(labels.read_bytes()) if labels.is_file() else ""
        except (OSError, UnicodeDecodeError) as error:
            for image in images:
                if draft := self._builder.add_found(self.images[image], where):
                    draft.refuse_label(LabelKind.OBJECTS, where, f"it is not text that can be read: {error}")
            return
        if len(images) > 1 and text.strip():
            names = ", ".join(image.name for image in images)
            self._builder.refuse(where, f"its labels may be of any of several images: {names}")
            return
        for image in images:
            draft = self._builder.add_found(self.images[image], where)
            # An image without a labels file shows no object, unless labelImg has saved it in another format.
            if draft and not labels.is_file() and (other := _find_other_labels(image)):
                draft.refuse_label(LabelKind.OBJECTS, where, f"there is no such file, but {other}")
            classes, has_keypoints = self._description.names, self._description.has_keypoints
            for number, line in enumerate(text.splitlines() if draft else (), 1):
                if draft and line.strip():
                    source = f"{where}:{number}"
                    draft.add(LabelKind.OBJECTS, source, read_line, line, classes, has_keypoints, draft.size)

    def _list_orphans(self, known: Mapping[Path, Sequence[Path]], *, is_part: bool) -> list[Path]:
        """Returns the files of labels whose images are missing. Records those whose images are in no split."""
        folders: dict[Path, dict[Path, None]] = {}
        for labels, images in known.items():
            folders.setdefault(labels.parent, {}).update((image.parent, None) for image in images)
        orphans = []
        for folder in sorted(folders):
            is_mixed = not any(part.casefold() == "labels" for part in folder.parts)
            found = [path for path in sorted(folder.glob("[!.]*.txt")) if path not in known and path.name != CLASSES]
            found = [path for path in found if not is_mixed or _has_labels(path)]
            unlisted = self._list_unlisted(folders[folder]) if found else set()
            orphans += [path for path in found if path.stem not in unlisted]
            for path in found:
                if path.stem in unlisted and not is_part:
                    self._builder.refuse(self._to_name(path), "its image is in no split of the dataset")
        return orphans

    def _list_unlisted(self, folders: Iterable[Path]) -> set[str]:
        """Returns the names, without suffixes, of the images in folders that are not read."""
        images = (image for folder in folders for image in folder.iterdir() if is_image_suffix(image.name))
        return {image.stem for image in images if image not in self.images}

    def _pair_by_spelling(self, labels: dict[Path, list[Path]], orphans: Sequence[Path]) -> None:
        """Gives an image without a labels file the only one that is called like it in another spelling, such as another
        normal form of Unicode, or with the prefix of an upload. An image that may have several is refused."""
        bare: dict[tuple[Path, str], list[Path]] = {}
        for path in labels if orphans else ():
            if not path.is_file():
                bare.setdefault((path.parent, fold_name(path.stem)), []).append(path)
        fitting: dict[tuple[Path, str], list[Path]] = {}
        for orphan in orphans:
            keys = [(orphan.parent, fold_name(stem)) for stem in (orphan.stem, remove_upload_prefix(orphan.stem))]
            if key := next((key for key in keys if key in bare), None):
                fitting.setdefault(key, []).append(orphan)
        for key, files in fitting.items():
            images = [image for path in bare[key] for image in labels.pop(path)]
            if len(files) == 1:
                labels[files[0]] = images
                continue
            names = ", ".join(file.name for file in files)
            for image in images:
                self._builder.refuse(self._to_name(image), f"its labels may be in any of several files: {names}")

    def _to_name(self, path: Path) -> str:
        root = self._resolver.root
        path = Path(os.path.normpath(path.absolute()))
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix().lstrip("/")


def _find_labels(image: Path) -> Path:
    """Returns the labels file of an image: the last `images` of its path becomes `labels`, or `JPEGImages` as Darknet
    has it.

    The folders may be called Images and Labels. If there is no such folder, or the path has no `images`, the file is
    beside the image.
    """
    parts = list(image.parts)
    beside = image.with_suffix(".txt")
    exact = Path("/labels/".join(beside.as_posix().rsplit("/images/", 1)))
    if exact != beside and exact.is_file():
        return exact
    at = next((i for i in range(len(parts) - 2, -1, -1) if parts[i].casefold() == "images"), None)
    if at is None and (at := next((i for i in range(len(parts) - 2, -1, -1) if parts[i] == "JPEGImages"), None)):
        darknet = Path(*parts[:at], "labels", *parts[at + 1 : -1])
        return darknet / beside.name if darknet.is_dir() else beside
    if at is None:
        return beside
    for name in ("Labels", "labels") if parts[at][0].isupper() else ("labels", "Labels"):
        folder = Path(*parts[:at], name, *parts[at + 1 : -1])
        if folder.is_dir():
            return folder / beside.name
    return beside if beside.is_file() else Path(*parts[:at], "labels", *parts[at + 1 : -1], beside.name)


def _find_other_labels(image: Path) -> str:
    """Returns the name of the file beside an image that may have its labels in another format; empty if none has."""
    files = [image.with_suffix(suffix) for suffix in (".xml", ".json")]
    return next((file.name for file in files if file.is_file()), "")


def _has_labels(path: Path) -> bool:
    """Returns whether a text file has lines of labels."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = next((line for line in file if line.strip()), "")
    except OSError:
        return False
    return _LINE.match(first) is not None


class _YoloWriter(DatasetWriter):
    """data.yaml, images/train/ and labels/train/ with one file for each image."""

    images_folder: ClassVar[str] = "images/train"
    default_placement: ClassVar[ImagePlacement] = ImagePlacement.COPY
    sidecars: ClassVar[tuple[str, str] | None] = ("labels/train", ".txt")
    shapes: ClassVar[tuple[type[Box | Polygon], ...]]

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._categories = CategoryIds()

    @classmethod
    def get_label_path(cls, name: str) -> str:
        """Returns the path by Ultralytics' rule: the last `/images/` becomes `/labels/`, also one in the name."""
        path = "/labels/".join(f"/{cls.images_folder}/{name}".rsplit("/images/", 1)).removeprefix("/")
        return replace_suffix(path, ".txt")

    def list_doubts(self, name: str) -> list[str]:
        doubts = ["images of a type that Ultralytics does not read"] if name.lower().endswith(_UNREAD_SUFFIXES) else []
        return doubts + ["images whose labels are beside their folder `images`"] * ("/images/" in f"/{name}")

    def add(self, image: LabeledImage, name: str) -> int:
        lines = []
        for traced in image.traced_annotations:
            annotation = traced.annotation
            if not isinstance(annotation, self.shapes):
                self.leave_out(describe_kind(annotation), traced)
                continue
            self.leave_out_details(traced)
            if isinstance(annotation, Polygon) and Box in self.shapes:
                self.leave_out("outlines", traced, is_written=True)
            values = self._to_fractions(annotation, image.width, image.height)
            numbers = " ".join(f"{min(max(v, 0.0), 1.0):.6f}" for v in values)
            lines.append(f"{self._categories.get_id(get_category(annotation))} {numbers}\n")
        self.write_sidecar(name, "".join(lines))
        return len(lines)

    def close(self) -> None:
        names = {number: name for name, number in self._categories.by_name.items()}
        data = {"train": "images/train", "val": "images/train", "names": names}
        self.folder.write("data.yaml", _HEADER + yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=1000))

    @abstractmethod
    def _to_fractions(self, shape: Box | Polygon, width: int, height: int) -> list[float]: ...


class YoloDetectWriter(_YoloWriter):
    """Writes objects as boxes, also those with an outline."""

    shapes = (Box, Polygon)

    def _to_fractions(self, shape: Box | Polygon, width: int, height: int) -> list[float]:
        x1, y1, x2, y2 = bounds(to_rings(shape))
        return [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]


class YoloSegmentWriter(_YoloWriter):
    """Writes the outlines of objects, and no boxes: a model would learn rectangles. A line has one ring, so several
    rings are joined by bridges without width."""

    shapes = (Polygon,)

    def _to_fractions(self, shape: Box | Polygon, width: int, height: int) -> list[float]:
        first, *others = to_rings(shape)
        ring = list(first)
        for other in others:
            # From the first corner of the first ring to the other, around it, and back.
            ring += [*first[:2], *other, *other[:2]]
        return [v / (height if i % 2 else width) for i, v in enumerate(ring)]
