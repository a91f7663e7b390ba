"""COCO: `instances`, `captions` and `words` files; https://cocodataset.org/#format-data.

`coco_url` may name the image, and `neg_category_ids` the classes that it does not show, as in LVIS: other classes
without annotations are unknown then. Annotations may have `sentences`, as RefCOCO is often stored, and words have their
text in `text` (florist) or `utf8_string` (COCO-Text).

The writer puts objects into instances_default.json, whose categories are their classes and nothing else, captions into
captions_default.json and words into words_default.json, with the one category `text`. The last two exist only if they
are not empty. An object without an outline has an empty `segmentation`. `attributes` are as CVAT and Datumaro write
them, with `review` (why a person should check an annotation); `score` is as in COCO's results files.

JSON has no lines here: errors name annotations by their ids.
"""

import shutil
import urllib.parse
from collections import defaultdict
from pathlib import Path
from typing import IO, Any, ClassVar

from labels.dataset import Dataset
from labels.formats.coco_annotations import KNOWN_ATTRIBUTES, CocoAnnotationReader, Known, to_key
from labels.geometry import area, bounds, to_rings
from labels.image_folders import ImageFolders
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.image_draft import ImageDraft
from labels.reading.split_files import SplitFiles
from labels.split_names import normalize_split, parse_split
from labels.writing.categories import REVIEW, CategoryIds, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImageOptions
from labels.writing.json_array import JsonArray
from prompts.annotations import Box, Quad, Text

_DIGITS = 6  # after the decimal point, of pixels and scores
_IMAGES, _SPLIT = ".images", "default"


def is_coco(document: Any) -> bool:
    """Returns whether a JSON document is a COCO file with images."""
    return isinstance(document, dict) and isinstance(document.get("images"), list) and "annotations" in document


def recognize(source: DatasetSource) -> bool:
    """Returns whether one of the JSON files is a COCO file."""
    return any(is_coco(document) for _, document in source.iter_json())


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels of the COCO files. Labels of one image in several files are combined.

    Splits are read together; the names of their images then begin with the split. Raises DatasetError.
    """
    documents = [(path, document) for path, document in source.iter_json() if is_coco(document)]
    partial = any(
        isinstance(entry, dict) and "sentences" in entry
        for _, document in documents
        for entry in (document["annotations"] if isinstance(document["annotations"], list) else ())
    )
    splits = SplitFiles([path for path, _ in documents], source)
    known = Known() if len(documents) > 1 else None
    reader = _CocoReader(DatasetBuilder(source.path, partial=partial), source, splits, known)
    for path, document in documents:
        reader.read(path, document)
    return reader.builder.build()


class _CocoReader:
    def __init__(self, builder: DatasetBuilder, source: DatasetSource, splits: SplitFiles, known: Known | None) -> None:
        """`known`: objects of earlier files, if there are several files."""
        self.builder, self._resolver, self._splits, self._known = builder, source.resolver, splits, known
        self._classes = defaultdict[str, set[str]](set)  # of the files that differ in their split only

    def read(self, path: Path, document: dict[str, Any]) -> None:
        """Reads one file."""
        file = self._splits.get_source(path)
        folders = self._resolver.layout.list_folders(path, self._splits.get_split(path))
        images: dict[Any, ImageDraft | None] = {}
        for position, image in enumerate(document["images"]):
            key = to_key(image.get("id")) if isinstance(image, dict) else None
            source = f"{file}: image {position if key is None else key}"
            if key is None or not _find_name(image):
                self.builder.refuse(source, "it needs an id and a file_name")
                continue
            draft = self._add_image(image, source, path, folders)
            if key not in images:
                images[key] = draft
            elif images[key] is not draft:
                for each in filter(None, (images[key], draft)):
                    each.refuse_all(source, "an earlier image has the same id: whose labels they are is unknown")
                images[key] = None
        reader = CocoAnnotationReader(document, file, self.builder, self._known)
        for draft in filter(None, images.values()):
            draft.covered = reader.kinds if draft.covered is None else draft.covered | reader.kinds
        reader.read(images)
        if LabelKind.OBJECTS in reader.kinds:
            self._add_classes(path, document, images, reader)

    def _add_classes(
        self, path: Path, document: dict[str, Any], images: dict[Any, ImageDraft | None], reader: CocoAnnotationReader
    ) -> None:
        """Adds to the images of a file which classes they were labeled for: those of its categories.

        In other splits, a file may list only the classes that occur.
        """
        split = parse_split(path)
        classes = self._classes[path.stem.replace(split.name, "") if split.is_known else path.stem]
        classes |= reader.list_classes()
        for image in document["images"]:
            if isinstance(image, dict) and (draft := images.get(to_key(image.get("id")))):
                if isinstance(image.get("neg_category_ids"), list):
                    draft.class_lists.append(reader.list_checked_classes(image, draft))
                else:
                    draft.class_lists.append(classes)

    def _add_image(self, image: dict[str, Any], source: str, file: Path, folders: ImageFolders) -> ImageDraft | None:
        try:
            found = self._resolver.find(_find_name(image), folders)
        except OSError as error:
            self.builder.refuse_missing(source, str(error))
            return None
        self._splits.check_image(file, found.path)
        size = checks.parse_size(image.get("width"), image.get("height"))
        return self.builder.add_found(found, source, size, prefix=self._splits.get_prefix(file))


def _find_name(image: dict[str, Any]) -> str:
    """Returns the path of an image; empty if there is none."""
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str):
        return name
    return urllib.parse.urlsplit(url).path.lstrip("/") if isinstance(url, str) and name is None else ""


class CocoWriter(DatasetWriter):
    """annotations/instances_default.json, images/, and a file each for captions and words, if there are any.

    Each file lists all images. The categories of the instances are the classes of the objects.
    """

    is_read_by_stem: ClassVar[bool] = True
    holds_urls: ClassVar[bool] = True
    reserved_attributes: ClassVar[frozenset[str]] = frozenset(KNOWN_ATTRIBUTES)

    @classmethod
    def to_holdable(cls, name: str) -> str:
        """Returns a name outside of images/default, where CVAT has all images of instances_default.json."""
        first, slash, rest = name.partition("/")
        return f"_{first}{slash}{rest}" if slash and normalize_split(first) == _SPLIT else name

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._images_file = folder.open(_IMAGES)
        self._images = JsonArray(self._images_file)
        self._instances = _CocoFile(folder, "instances")
        self._captions: _CocoFile | None = None
        self._words: _CocoFile | None = None
        self._count = 0

    def add(self, image: LabeledImage, name: str) -> int:
        number = self.report.images
        entry: dict[str, Any] = {"id": number, "file_name": name, "width": image.width, "height": image.height}
        if url := self.images.make_url(name):
            entry["coco_url"] = url
        self._images.append(entry)
        for traced in map(self.select_attributes, image.traced_annotations):
            self._count += 1
            ids = {"id": self._count, "image_id": number}
            match traced.annotation:
                case Text():
                    self._captions = self._captions or _CocoFile(self.folder, "captions")
                    self._captions.append({**ids, "caption": traced.annotation.label}, traced)
                    self.report.place(self._captions.path, "captions")
                case Quad():
                    self._words = self._words or _CocoFile(self.folder, "words")
                    self._words.append({**ids, **self._words.to_entry(traced), "text": traced.annotation.label}, traced)
                    self.report.place(self._words.path, "words")
                case _:
                    self._instances.append({**ids, **self._instances.to_entry(traced)}, traced)
        return len(image.annotations)

    def close(self) -> None:
        for file in filter(None, (self._instances, self._captions, self._words)):
            file.close(self._images_file)
        self.folder.remove(_IMAGES)


class _CocoFile:
    """One file of an export. `kind` is what it is about, as the name of the file says."""

    def __init__(self, folder: ExportFolder, kind: str) -> None:
        self.path = f"annotations/{kind}_default.json"
        self._has_categories = kind != "captions"  # readers expect a category of every annotation if there are any
        self._categories = CategoryIds(1)
        self._file = folder.open(self.path)
        self._file.write('{"info":{"description":"florist","version":"1.0"},"licenses":[],\n"annotations":[')
        self._annotations = JsonArray(self._file)

    def to_entry(self, traced: TracedAnnotation) -> dict[str, Any]:
        """Returns the category and the place of a shape. A box has no segmentation."""
        shape = traced.annotation
        assert not isinstance(shape, Text)
        rings = to_rings(shape)
        x1, y1, x2, y2 = bounds(rings)
        outlines = [] if isinstance(shape, Box) else rings
        return {
            "category_id": self._categories.get_id(get_category(shape)),
            "bbox": [round(v, _DIGITS) for v in (x1, y1, x2 - x1, y2 - y1)],
            "area": round(sum(map(area, rings)), _DIGITS),
            "segmentation": [[round(v, _DIGITS) for v in ring] for ring in outlines],
            "iscrowd": 0,
        }

    def append(self, entry: dict[str, Any], traced: TracedAnnotation) -> None:
        """Writes an annotation with its score, its attributes and the reason for review."""
        attributes = dict(traced.attributes) | ({REVIEW: traced.review} if traced.review else {})
        if traced.annotation.score is not None:
            entry["score"] = round(traced.annotation.score, _DIGITS)
        self._annotations.append(entry | ({"attributes": attributes} if attributes else {}))

    def close(self, images: IO[str]) -> None:
        """Writes the categories and, from a file, the list of images."""
        if self._has_categories:
            self._file.write('\n],\n"categories":[')
            categories = JsonArray(self._file)
            for name, number in self._categories.by_name.items():
                categories.append({"id": number, "name": name, "supercategory": ""})
        self._file.write('\n],\n"images":[')
        images.seek(0)
        shutil.copyfileobj(images, self._file)
        self._file.write("\n]}\n")
