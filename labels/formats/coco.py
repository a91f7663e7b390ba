"""COCO: `instances` and `captions` files; https://cocodataset.org/#format-data.

Annotations may have `sentences`, as RefCOCO is often stored, and words have their text in `text` (florist) or
`utf8_string` (COCO-Text). The writer also adds `score`, as in COCO's results files.

JSON has no lines here: errors name annotations by their ids.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labels import masks
from labels.dataset import Dataset
from labels.geometry import area, bounding_box, bounds, box_to_ring, simplify_for_answer, to_rings
from labels.image_folders import ImageFolders
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder, ImageDraft
from labels.reading.dataset_source import DatasetSource
from labels.reading.split_files import SplitFiles
from labels.sample import Sample
from labels.writing.categories import CategoryIds, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.json_array import JsonArray
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.grammar import FILLER_PHRASES
from prompts.tasks import TASKS

_TOLERANCE = 0.01  # pixels between a ring and a bbox that describe the same rectangle
_DIGITS = 6  # after the decimal point, of pixels and scores
_IMAGES = ".images"


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
    partial = any("sentences" in entry for _, document in documents for entry in _select_dicts(document["annotations"]))
    splits = SplitFiles([path for path, _ in documents], source)
    reader = _CocoReader(DatasetBuilder(source.path, partial=partial), source, splits)
    for path, document in documents:
        reader.read(path, document)
    return reader.builder.build()


class _CocoReader:
    def __init__(self, builder: DatasetBuilder, source: DatasetSource, splits: SplitFiles) -> None:
        self.builder, self._resolver, self._splits = builder, source.resolver, splits

    def read(self, path: Path, document: dict[str, Any]) -> None:
        """Reads one file."""
        file = self._splits.get_source(path)
        folders = self._resolver.layout.list_folders(path, self._splits.get_split(path))
        images: dict[Any, ImageDraft | None] = {}
        for position, image in enumerate(document["images"]):
            key = _to_key(image.get("id")) if isinstance(image, dict) else None
            source = f"{file}: image {position if key is None else key}"
            if key is None or not isinstance(image.get("file_name"), str):
                self.builder.refuse(source, "it needs an id and a file_name")
            elif key in images:
                self.builder.refuse(source, "an earlier image has the same id")
            else:
                images[key] = self._add_image(image, source, path, folders)
        categories = {_to_key(each.get("id")): each.get("name") for each in _select_dicts(document.get("categories"))}
        entries = document["annotations"]
        if not isinstance(entries, list):
            self.builder.refuse(file, "its annotations are not a list")
        for position, entry in enumerate(entries if isinstance(entries, list) else ()):
            source = f"{file}: annotation {entry.get('id', position) if isinstance(entry, dict) else position}"
            if not isinstance(entry, dict):
                self.builder.refuse(source, "it is not a JSON object")
            elif (key := _to_key(entry.get("image_id"))) not in images:
                self.builder.refuse(source, f"its image is {key!r}, which the file does not list")
            elif draft := images[key]:
                _add_annotation(entry, draft, source, categories)

    def _add_image(self, image: dict[str, Any], source: str, file: Path, folders: ImageFolders) -> ImageDraft | None:
        try:
            found = self._resolver.find(image["file_name"], folders)
        except OSError as error:
            self.builder.refuse(source, str(error))
            return None
        self._splits.check_image(file, found.path)
        size = checks.parse_size(image.get("width"), image.get("height"))
        return self.builder.add_found(found, source, size, prefix=self._splits.get_prefix(file))


def _add_annotation(entry: dict[str, Any], draft: ImageDraft, source: str, categories: Mapping[Any, Any]) -> None:
    words = entry.get("text", entry.get("utf8_string"))
    if "caption" in entry:
        draft.add(LabelKind.CAPTIONS, source, checks.check_caption, entry["caption"])
    elif entry.get("iscrowd"):
        draft.refuse_label(LabelKind.OBJECTS, source, "it is a crowd: one region for many objects")
    elif words is not None:
        draft.add(LabelKind.WORDS, source, _read_words, words, entry, draft.size)
    else:
        shape = draft.add(LabelKind.OBJECTS, source, _read_shape, entry, categories, draft.size)
        if isinstance(shape, Box | Polygon):
            sentences = entry.get("sentences") or []
            for sentence in sentences if isinstance(sentences, list) else [sentences]:
                _add_sentence(sentence, shape, draft, source)


def _read_words(words: object, entry: dict[str, Any], size: Size) -> Quad:
    return checks.check_words(words, _read_rings(entry, size) or [box_to_ring(_read_corners(entry))], size)


def _read_shape(entry: dict[str, Any], categories: Mapping[Any, Any], size: Size) -> Box | Polygon:
    key = _to_key(entry.get("category_id"))
    if key not in categories:
        raise LabelError(f"its category is {key!r}, which the file does not list")
    rings = _read_rings(entry, size)
    if not rings or (len(rings) == 1 and "bbox" in entry and _is_bbox(rings[0], entry)):
        return checks.check_box(categories[key], _read_corners(entry), size)
    return checks.check_polygon(categories[key], rings, size)


def _read_rings(entry: dict[str, Any], size: Size) -> list[Any]:
    rings = entry.get("segmentation") or []
    if isinstance(rings, dict):
        return masks.decode_coco_mask(rings, size)
    if not isinstance(rings, list):
        raise LabelError("its segmentation is neither a list of rings nor run lengths")
    return [ring for ring in rings if ring != []]


def _read_corners(entry: dict[str, Any]) -> tuple[float, float, float, float]:
    """Returns x1, y1, x2, y2 of the `bbox`, which is x, y, width, height."""
    x, y, width, height = checks.check_numbers(entry.get("bbox"), 4)
    return x, y, x + width, y + height


def _is_bbox(ring: Any, entry: dict[str, Any]) -> bool:
    """Returns whether a ring repeats the bbox, as tools without masks write it."""
    try:
        pairs = zip(checks.check_numbers(ring, 8), box_to_ring(_read_corners(entry)), strict=True)
        return all(abs(one - other) <= _TOLERANCE for one, other in pairs)
    except LabelError:
        return False


def _add_sentence(sentence: Any, shape: Box | Polygon, draft: ImageDraft, source: str) -> None:
    """Adds the samples of a sentence that refers to one object: where it is, and the description of its region."""
    if isinstance(sentence, dict):
        sentence = sentence.get("sent", sentence.get("raw"))
    try:
        text = checks.check_label(sentence, "sentence", checks.MAX_TEXT)
    except LabelError as error:
        draft.builder.refuse(source, str(error))
        return
    region = bounding_box(shape)
    draft.samples.append(Sample(TASKS["<REGION_TO_DESCRIPTION>"], (Text(label=text),), region=region))
    if text not in FILLER_PHRASES:  # `him` can be segmented, but not grounded
        box = Box(label=text, box=region)
        draft.samples.append(Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], (box,), text=text))
    if isinstance(shape, Polygon):
        outline = Polygon(polygons=simplify_for_answer(shape, draft.size))
        draft.samples.append(Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (outline,), text=text))


def _select_dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _to_key(value: Any) -> Any:
    """Returns an id that can be looked up; None if it cannot be an id."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


class CocoWriter(DatasetWriter):
    """annotations/instances_default.json, annotations/captions_default.json, images/. Both files list all images."""

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
