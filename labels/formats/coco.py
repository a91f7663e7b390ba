"""COCO: `instances` and `captions` files; https://cocodataset.org/#format-data.

`coco_url` may name the image, and `neg_category_ids` the classes that it does not show, as in LVIS: other classes
without annotations are unknown then. Annotations may have `sentences`, as RefCOCO is often stored, and words have their
text in `text` (florist) or `utf8_string` (COCO-Text). The writer also adds `score`, as in COCO's results files.

JSON has no lines here: errors name annotations by their ids.
"""

import shutil
import urllib.parse
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from labels.dataset import Dataset
from labels.formats.coco_annotations import CocoAnnotationReader, Known, to_key
from labels.geometry import area, bounds, to_rings
from labels.image_folders import ImageFolders
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading import checks
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.image_draft import ImageDraft
from labels.reading.split_files import SplitFiles
from labels.split_names import normalize_split, parse_split
from labels.writing.categories import CategoryIds, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.json_array import JsonArray
from prompts.annotations import Annotation, Quad, Text

_TOLERANCE = 0.01  # pixels between a ring and a bbox that describe the same rectangle
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
    """annotations/instances_default.json, annotations/captions_default.json, images/. Both files list all images."""

    is_read_by_stem: ClassVar[bool] = True

    @classmethod
    def to_holdable(cls, name: str) -> str:
        """Returns a name outside of images/default, where CVAT has all images of instances_default.json."""
        first, slash, rest = name.partition("/")
        return f"_{first}{slash}{rest}" if slash and normalize_split(first) == _SPLIT else name

    def __init__(self, folder: ExportFolder, report: ExportReport, *, has_copies: bool) -> None:
        super().__init__(folder, report, has_copies=has_copies)
        self._categories = CategoryIds(1)
        self._images_file = folder.open(_IMAGES)
        # Two files, since readers expect a category of every annotation in a file that has categories.
        self._instances_file = folder.open("annotations/instances_default.json")
        self._captions_file = folder.open("annotations/captions_default.json")
        for file in (self._instances_file, self._captions_file):
            file.write('{"info":{"description":"florist","version":"1.0"},"licenses":[],\n"annotations":[')
        self._images = JsonArray(self._images_file)
        self._instances = JsonArray(self._instances_file)
        self._captions = JsonArray(self._captions_file)
        self._count = 0

    def add(self, image: LabeledImage, name: str) -> int:
        number = self.report.images
        self._images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for annotation in image.annotations:
            self._count += 1
            entry = {"id": self._count, "image_id": number, **_to_entry(annotation, self._categories)}
            (self._captions if isinstance(annotation, Text) else self._instances).append(entry)
        return len(image.annotations)

    def close(self) -> None:
        self._instances_file.write('\n],\n"categories":[')
        categories = JsonArray(self._instances_file)
        for name, number in self._categories.by_name.items():
            categories.append({"id": number, "name": name, "supercategory": ""})
        for file in (self._instances_file, self._captions_file):
            file.write('\n],\n"images":[')
            self._images_file.seek(0)
            shutil.copyfileobj(self._images_file, file)
            file.write("\n]}\n")
        self.folder.remove(_IMAGES)


def _to_entry(annotation: Annotation, categories: CategoryIds) -> dict[str, Any]:
    """Returns an annotation without its ids."""
    if isinstance(annotation, Text):
        entry: dict[str, Any] = {"caption": annotation.label}
    else:
        rings = to_rings(annotation)
        x1, y1, x2, y2 = bounds(rings)
        entry = {
            "category_id": categories.get_id(get_category(annotation)),
            "bbox": [round(v, _DIGITS) for v in (x1, y1, x2 - x1, y2 - y1)],
            "area": round(sum(map(area, rings)), _DIGITS),
            "segmentation": [[round(v, _DIGITS) for v in ring] for ring in rings],
            "iscrowd": 0,
        }
    if isinstance(annotation, Quad):
        entry["text"] = annotation.label
    return entry if annotation.score is None else {**entry, "score": round(annotation.score, _DIGITS)}
