"""Reads `details.jsonl` beside a dataset that florist has exported: what the format has no place for.

What the dataset itself has, a person may have changed since. Details of an annotation are used only if an annotation
is where it was; otherwise they are listed. So is an object of a model that the format could not hold, if a person has
drawn it since.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labels.geometry import bounding_box_or_none, box_iou
from labels.image_files import ImageFile
from labels.reading import documents, label_rows
from labels.reading.checks import LabelError
from labels.writing.dataset_writer import DETAILS_FILE
from prompts.annotations import Annotation, Box, Polygon

if TYPE_CHECKING:
    from labels.reading.image_draft import ImageDraft

# A part of a dataset, such as images/train, is below its folder.
_PARTS = ("annotations", "images", "imagesets", "jpegimages", "labels", "main", "train")
_SAME_OBJECT_IOU = 0.5
_TOLERANCE = 1.01  # pixels: Pascal VOC rounds to whole pixels


def find_details(path: Path) -> Path | None:
    """Returns the details of the dataset at a path, or that a path is a part of; None if there are none."""
    path = path.absolute()
    folder = path if path.is_dir() else path.parent
    while not (folder / DETAILS_FILE).is_file():
        if folder.name.casefold() not in _PARTS:
            return None
        folder = folder.parent
    return None if folder / DETAILS_FILE == path else folder / DETAILS_FILE


def add_details(path: Path, drafts: Mapping[str, "ImageDraft"]) -> None:
    """Adds the details of the dataset at a path to its images, by name. Raises DatasetError."""
    if not drafts or (file := find_details(path)) is None:
        return
    builder = next(iter(drafts.values())).builder
    files = {each.open.path.resolve(): each for each in drafts.values() if isinstance(each.open, ImageFile)}
    for number, row, problem in documents.read_json_lines(file):
        where = f"{DETAILS_FILE}:{number}"
        if problem or not isinstance(row, dict) or not isinstance(row.get("name"), str):
            builder.refuse(where, problem or "it is not a JSON object with the name of an image")
        elif (
            draft := files.get((file.parent / str(row.get("file"))).resolve()) or drafts.get(row["name"])
        ) is not None:
            _add_row(row, draft, where)


def _add_row(row: dict[str, Any], draft: "ImageDraft", where: str) -> None:
    waiting = list(range(len(draft.annotations)))  # indexes of annotations without details
    labels = [(f"{where}, label {i}", label) for i, label in enumerate(_list_dicts(row.get("labels")))]
    for source, label in labels:
        if label.get("is_written") is True:
            _describe(label, draft, source, waiting)
    others = [draft.annotations[index] for index in waiting]
    for source, label in labels:
        if label.get("is_written") is True:
            continue
        if _is_drawn(label.get("annotation"), others):
            draft.builder.refuse(source, "somebody has drawn this object since, so the model's is not used")
        else:
            label_rows.add_label(label, draft, source)
    for position, label in enumerate(_list_dicts(row.get("regions"))):
        label_rows.add_region(label, draft, f"{where}, region {position}")
    for position, sample in enumerate(_list_dicts(row.get("samples"))):
        label_rows.add_sample(sample, draft, f"{where}, sample {position}")


def _describe(label: dict[str, Any], draft: "ImageDraft", where: str, waiting: list[int]) -> None:
    """Gives an annotation of the dataset its details: attributes, and an outline in place of its box."""
    try:
        annotation = label_rows.read_annotation(label.get("annotation"), draft.size)
    except LabelError as error:
        draft.builder.refuse(where, str(error))
        return
    found = [index for index in waiting if _is_near(draft.annotations[index], annotation)]
    if not found:
        draft.builder.refuse(where, "its annotation is elsewhere now, or gone, so its details are not used")
        return
    index = next((i for i in found if draft.annotations[i].label == annotation.label), found[0])
    waiting.remove(index)
    if isinstance(draft.annotations[index], Box) and isinstance(annotation, Polygon):
        draft.annotations[index] = annotation.model_copy(update={"label": draft.annotations[index].label})
    draft.describe(where, draft.annotations[index], label_rows.get_attributes(label))


def _is_drawn(label: Any, others: Sequence[Annotation]) -> bool:
    """Returns whether an object of a model, which the format could not hold, is one of the dataset's by now.

    `others` are annotations without details. All that a model has made and the dataset holds have their scores there.
    """
    if not isinstance(label, dict) or label.get("score") is None:
        return False
    try:
        shape = label_rows.parse_annotation(label)
    except LabelError:
        return False
    box = bounding_box_or_none(shape) if isinstance(shape, Box | Polygon) else None
    boxes = [bounding_box_or_none(each) for each in others if each.label == shape.label]
    return box is not None and any(other is not None and box_iou(box, other) >= _SAME_OBJECT_IOU for other in boxes)


def _is_near(one: Annotation, other: Annotation) -> bool:
    """Returns whether two annotations have the same bounds, or are the same text."""
    boxes = bounding_box_or_none(one), bounding_box_or_none(other)
    if boxes[0] is None or boxes[1] is None:
        return one == other
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(boxes[0], boxes[1], strict=True))


def _list_dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
