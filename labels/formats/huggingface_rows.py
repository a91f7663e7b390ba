"""Reads one row of a Hugging Face dataset: objects, words and captions."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from labels.formats.coco_annotations import is_set, read_rings
from labels.geometry import Rectangle, box_to_ring
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.image_draft import ImageDraft
from prompts.annotations import Annotation, Box

_LABEL_KEYS = ("category", "categories", "label", "labels", "category_id")
_CAPTION_KEYS = ("captions", "caption", "text")


def read_row(row: Mapping[str, Any], draft: ImageDraft, where: str, names: Sequence[str]) -> None:
    """Adds the labels of a row to its image. `where` is the file and line, `names` are class names by number."""
    objects, words = row.get("objects"), _list_records(row.get("words"))
    # A row without objects does not say that there are none.
    kinds = {LabelKind.OBJECTS, LabelKind.WORDS} if objects is not None else set()
    draft.covered = (draft.covered or set()) | kinds | ({LabelKind.WORDS} if words else set())
    records = _list_records(objects)
    if records is None:
        draft.refuse_label(
            LabelKind.OBJECTS, where, "its objects are neither a list nor a list for each of their fields"
        )
    for position, record in enumerate(records or ()):
        source = f"{where}, object {position}"
        if isinstance(record, dict):
            _read_object(record, draft, source, names)
        else:
            draft.refuse_label(LabelKind.OBJECTS, source, "it is not a record of fields")
    # Other datasets have words without their places in a column of this name.
    for position, record in enumerate(words or ()):
        if isinstance(record, dict):
            _read_object({"kind": "quad", **record}, draft, f"{where}, word {position}", names)
    for position, record in enumerate(_list_records(row.get("regions")) or ()):
        if isinstance(record, dict):
            _read_region(record, draft, f"{where}, region {position}")
    _read_captions(row, draft, where)
    file = where.rpartition(":")[0]
    for key in _LABEL_KEYS:
        if row.get(key) not in (None, ""):
            draft.builder.note_once(file, f"the column {key!r} is not used: it labels whole images")


def _list_records(value: Any) -> list[Any] | None:
    """Returns the records of a column: a list, one in JSON, or a list for each field; None if it is none of them."""
    if value in (None, ""):
        return []
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):  # CSV has no lists
            value = json.loads(value)
    if isinstance(value, dict):
        value = _to_records(value)
    return value if isinstance(value, list) else None


def _to_records(fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Converts a list for each field to a record for each object; None if no field is a list."""
    lists = {key: values for key, values in fields.items() if isinstance(values, list)}
    if not lists:
        return None
    count = max(map(len, lists.values()), default=0)
    return [{key: values[i] for key, values in lists.items() if i < len(values)} for i in range(count)]


def _read_captions(row: Mapping[str, Any], draft: ImageDraft, where: str) -> None:
    keys = [key for key in _CAPTION_KEYS if row.get(key)]
    for key in keys[:1]:
        value = row[key]
        for each in value if isinstance(value, list) else [value]:
            caption = each.get("text") if isinstance(each, dict) else each
            added = draft.add(LabelKind.CAPTIONS, where, checks.check_caption, caption)
            draft.describe(where, added, _read_attributes(each) if isinstance(each, dict) else {})
    for key in keys[1:]:
        draft.leave_out(where, f"its {key} is not used, because it has a column {keys[0]!r}")


def _read_object(record: dict[str, Any], draft: ImageDraft, source: str, names: Sequence[str]) -> None:
    is_word = isinstance(record.get("text"), str) and record.get("kind", "quad") == "quad"
    kind = LabelKind.WORDS if is_word else LabelKind.OBJECTS
    try:
        if is_set(record.get("iscrowd")) or is_set(record.get("is_crowd")):
            raise LabelError("it is a crowd, one region for many objects (iscrowd is 1)")
        rings = read_rings({"segmentation": record.get("polygons") or record.get("segmentation")}, draft.size)
        box = _read_box(record)
        if box is None and not rings:
            raise LabelError("it has no box, bbox or polygons")
        label = _read_label(record, names) if not is_word else None
    except LabelError as error:
        draft.refuse_label(kind, source, str(error))
        return
    if is_word:
        outline = rings or [box_to_ring(box)] if box is not None else rings
        added = draft.add(kind, source, checks.check_words, record["text"], outline, draft.size)
        with suppress(LabelError):
            draft.leave_out_class(source, _read_label(record, names))
    elif rings:
        added = draft.add_outline(source, label, rings, box)
    else:
        added = draft.add(kind, source, _make_box, label, record, draft.size)
    draft.describe(source, added, _read_attributes(record))


def _read_region(record: dict[str, Any], draft: ImageDraft, source: str) -> None:
    """Adds a region with free text, which is no object."""
    try:
        rings = read_rings({"segmentation": record.get("polygons")}, draft.size)
        shape: Annotation = (
            checks.check_polygon("region", rings, draft.size)
            if rings
            else checks.check_box("region", _read_box(record), draft.size)
        )
    except LabelError as error:
        draft.builder.refuse(source, str(error))
        return
    draft.add_region(source, record.get("text"), shape, _read_attributes(record))


def _read_attributes(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a record, which are a list of names and values, or a value for each name."""
    attributes = record.get("attributes")
    if isinstance(attributes, dict):
        lists = isinstance(attributes.get("name"), list) and isinstance(attributes.get("value"), list)
        attributes = _to_records(attributes) if lists else attributes
    if isinstance(attributes, list):
        return {each["name"]: each.get("value") for each in attributes if isinstance(each, dict) and each.get("name")}
    return attributes if isinstance(attributes, dict) else {}


def _make_box(label: object, record: Mapping[str, Any], size: Size) -> Box:
    """Returns the box of a record that has one. Raises LabelError."""
    if record.get("box") is None:
        bbox = checks.check_numbers(record["bbox"], 4)
        checks.check_sides(bbox, "x, y, width, height", *bbox[2:])
    return checks.check_box(label, _read_box(record), size)


def _read_box(record: Mapping[str, Any]) -> Rectangle | None:
    if record.get("box") is not None:
        x1, y1, x2, y2 = checks.check_numbers(record["box"], 4)
        return x1, y1, x2, y2
    if record.get("bbox") is not None:
        x, y, width, height = checks.check_numbers(record["bbox"], 4)
        return x, y, x + width, y + height
    return None


def _read_label(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    label = next((record[key] for key in _LABEL_KEYS if key in record), None)
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int) and not isinstance(label, bool):
        if not 0 <= label < len(names):
            raise LabelError(f"its category {label} has no name: the dataset's features have {len(names)} names")
        return names[label]
    return label
