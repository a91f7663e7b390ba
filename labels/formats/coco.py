"""COCO: `instances` and `captions` files, and annotations with `sentences`, as RefCOCO's are often kept;
https://cocodataset.org/#format-data. Words that were read stand in `text` (florist) or `utf8_string` (COCO-Text).

JSON has no lines here: labels are named by their ids.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labels import masks
from labels.dataset import Dataset
from labels.geometry import bounding_box, box_to_ring, signed_area, simplify_for_answer
from labels.image_files import ImageFile, find_image
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading import checks
from labels.reading.builder import DatasetBuilder, ImageDraft
from labels.reading.checks import LabelError, Size
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.grammar import FILLER_PHRASES
from prompts.tasks import TASKS

_SAME = 0.01  # pixels between two that are written of one rectangle


def is_coco(document: Any) -> bool:
    """Whether a JSON document is a COCO file with pictures."""
    return isinstance(document, dict) and isinstance(document.get("images"), list) and "annotations" in document


def read(root: Path, documents: Sequence[tuple[Path, Any]]) -> Dataset:
    """The pictures and labels of COCO files, those of one picture together. Pictures are looked for beside a file, in
    `images` there, and, as COCO itself lies on disks (annotations/instances_val2017.json beside val2017/), beside its
    folder. Raises DatasetError."""
    partial = any("sentences" in note for _, document in documents for note in _dicts(document["annotations"]))
    reader = _Reader(DatasetBuilder(root, partial=partial))
    several = len({path.parent for path, _ in documents}) > 1
    for path, document in documents:
        reader.read(path, document, f"{path.parent.name}/" if several else "")
    return reader.builder.build()


class _Reader:
    def __init__(self, builder: DatasetBuilder) -> None:
        self.builder = builder
        self._earlier: dict[Path, ImageDraft] = {}  # by pictures, from the files before this one

    def read(self, path: Path, document: dict[str, Any], prefix: str) -> None:
        """One file; `prefix` goes before the pictures' names."""
        above, split = path.parent.parent, path.stem.rpartition("_")[2]
        folders = [path.parent, path.parent / "images", above, above / "images", above / split]
        images: dict[Any, ImageDraft | None] = {}
        for position, image in enumerate(document["images"]):
            key = _key(image.get("id")) if isinstance(image, dict) else None
            source = f"{path.name}: image {position if key is None else key}"
            if key is None or not isinstance(image.get("file_name"), str):
                self.builder.refuse(source, "it needs an id and a file_name")
            elif key in images:
                self.builder.refuse(source, "its id has been given already")
            else:
                images[key] = self._picture(image, source, folders, prefix)
        categories = {_key(each.get("id")): each.get("name") for each in _dicts(document.get("categories"))}
        notes = document["annotations"]
        if not isinstance(notes, list):
            self.builder.refuse(path.name, "its annotations are no list")
        for position, note in enumerate(notes if isinstance(notes, list) else ()):
            source = f"{path.name}: annotation {note.get('id', position) if isinstance(note, dict) else position}"
            if not isinstance(note, dict):
                self.builder.refuse(source, "it is no JSON object")
            elif (key := _key(note.get("image_id"))) not in images:
                self.builder.refuse(source, f"it is on the image {key!r}, which is none of the file's")
            elif draft := images[key]:
                _add(note, draft, source, categories)
        self._earlier |= {draft.path: draft for draft in images.values() if draft}

    def _picture(self, image: dict[str, Any], source: str, folders: list[Path], prefix: str) -> ImageDraft | None:
        name = image["file_name"]
        try:
            place = find_image(name, folders).resolve()
        except OSError as error:
            self.builder.refuse(source, str(error))
            return None
        if place in self._earlier:
            return self._earlier[place]
        size = checks.parse_size(image.get("width"), image.get("height"))
        return self.builder.add_image(prefix + name, source, ImageFile(place), size)


def _add(note: dict[str, Any], draft: ImageDraft, source: str, categories: Mapping[Any, Any]) -> None:
    words = note.get("text", note.get("utf8_string"))
    if "caption" in note:
        draft.add(LabelKind.CAPTIONS, source, checks.check_caption, note["caption"])
    elif note.get("iscrowd"):
        draft.refuse(LabelKind.OBJECTS, source, "it is a crowd: one region over many things")
    elif words is not None:
        draft.add(LabelKind.WORDS, source, _words, words, note, draft.size)
    else:
        shape = draft.add(LabelKind.OBJECTS, source, _shape, note, categories, draft.size)
        if isinstance(shape, Box | Polygon):
            sentences = note.get("sentences") or []
            for sentence in sentences if isinstance(sentences, list) else [sentences]:
                _refer(sentence, shape, draft, source)


def _words(words: object, note: dict[str, Any], size: Size) -> Any:
    return checks.check_words(words, _rings(note, size) or [_outline(note)], size)


def _shape(note: dict[str, Any], categories: Mapping[Any, Any], size: Size) -> Box | Polygon:
    key = _key(note.get("category_id"))
    if key not in categories:
        raise LabelError(f"its category is {key!r}, which is none of the file's")
    rings = _rings(note, size)
    if not rings or (len(rings) == 1 and "bbox" in note and _alike(rings[0], note)):
        return checks.check_box(categories[key], _corners(note), size)
    return checks.check_polygon(categories[key], rings, size)


def _rings(note: dict[str, Any], size: Size) -> list[Any]:
    rings = note.get("segmentation") or []
    if isinstance(rings, dict):
        return masks.of_coco(rings, size)
    if not isinstance(rings, list):
        raise LabelError("its segmentation is neither a list of rings nor run lengths")
    return [ring for ring in rings if ring != []]


def _corners(note: dict[str, Any]) -> list[float]:
    """Of the `bbox`, which is x, y, width, height."""
    x, y, width, height = checks.check_numbers(note.get("bbox"), 4)
    return [x, y, x + width, y + height]


def _outline(note: dict[str, Any]) -> list[float]:
    x1, y1, x2, y2 = _corners(note)
    return box_to_ring((x1, y1, x2, y2))


def _alike(ring: Any, note: dict[str, Any]) -> bool:
    """Whether a ring is the bbox once more, as writers do who have no masks."""
    try:
        pairs = zip(checks.check_numbers(ring, 8), _outline(note), strict=True)
        return all(abs(one - other) <= _SAME for one, other in pairs)
    except LabelError:
        return False


def _refer(sentence: Any, shape: Box | Polygon, draft: ImageDraft, source: str) -> None:
    """What a sentence that refers to one thing teaches: where it is, and what is said of its region."""
    if isinstance(sentence, dict):
        sentence = sentence.get("sent", sentence.get("raw"))
    try:
        said = checks.check_label(sentence, "sentence", checks.MAX_TEXT)
    except LabelError as error:
        draft.builder.refuse(source, str(error))
        return
    place = bounding_box(shape)
    asked = [Sample(TASKS["<REGION_TO_DESCRIPTION>"], (Text(label=said),), region=place)]
    if said not in FILLER_PHRASES:  # `him` can be outlined, and grounds nothing
        asked.append(Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], (Box(label=said, box=place),), text=said))
    if isinstance(shape, Polygon):
        mask = Polygon(polygons=simplify_for_answer(shape, draft.size))
        asked.append(Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (mask,), text=said))
    draft.samples += asked


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _key(value: Any) -> Any:
    """An id as it can be looked up; None for what is none."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def write(examples: Iterable[LabeledImage], folder: Path) -> Path:
    """Writes a dataset as COCO, labels.json and images/, whose files are numbered; the path of the former. Questions
    have no place. Raises OSError, and ImageError for a picture that is broken."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, notes, categories = list[dict[str, Any]](), list[dict[str, Any]](), dict[str, int]()
    for number, example in enumerate(examples, 1):
        image = example.open()
        name = f"{number:06}.png"
        image.save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": image.width, "height": image.height})
        for note in example.annotations:
            said = {"id": len(notes) + 1, "image_id": number, **_entry(note, categories)}
            notes.append(said)
    listed = [{"id": i, "name": name} for name, i in categories.items()]
    path = folder / "labels.json"
    document = {"images": images, "annotations": notes, "categories": listed}
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


def _entry(note: Annotation, categories: dict[str, int]) -> dict[str, Any]:
    if isinstance(note, Text):
        return {"caption": note.label}
    words = isinstance(note, Quad)
    number = categories.setdefault("text" if words else note.label, len(categories) + 1)
    x1, y1, x2, y2 = bounding_box(note)
    rings = note.polygons if isinstance(note, Polygon) else [list(note.quad)] if isinstance(note, Quad) else []
    said = {"category_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0, "segmentation": rings}
    said["area"] = sum(abs(signed_area(ring)) for ring in rings) if rings else (x2 - x1) * (y2 - y1)
    return said | ({"text": note.label} if words else {})
