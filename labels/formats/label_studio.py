"""Label Studio's JSON export; https://labelstud.io/guide/export. Of a task the newest annotation counts, or, where
nobody has annotated it, the newest prediction."""

import urllib.parse
from pathlib import Path, PurePosixPath
from typing import Any

from labels import masks
from labels.dataset import Dataset
from labels.geometry import Point, box_to_ring, rotate_ring, to_ring
from labels.image_files import SUFFIXES, ImageFile, find_image
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.builder import DatasetBuilder, ImageDraft
from labels.reading.checks import LabelError, Size
from prompts.annotations import Annotation

_SHAPES = ("rectangle", "rectanglelabels", "polygon", "polygonlabels", "brush", "brushlabels")
_NAMES = ("rectanglelabels", "polygonlabels", "brushlabels", "labels")


def is_labelstudio(document: Any) -> bool:
    """Whether a JSON document is a list of Label Studio's tasks."""
    return isinstance(document, list) and any(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in document[:100]
    )


def read(path: Path, document: Any) -> Dataset:
    """The pictures and labels of an export. Pictures are looked for beside it and in `images` there, by the path in
    their address and by its last part. Raises DatasetError."""
    builder = DatasetBuilder(path)
    for position, task in enumerate(document):
        number = task.get("id", position + 1) if isinstance(task, dict) else position + 1
        source = f"{path.name}: task {number}"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            builder.refuse(source, "it is no task: it has no data")
            continue
        said = _said(task)
        if not isinstance(said, list):
            builder.refuse(source, "nobody has annotated it" if said is None else "its result is no list")
            continue
        results = [each for each in said if isinstance(each, dict)]
        try:
            place = _place(task["data"], [path.parent, path.parent / "images"])
        except OSError as error:
            builder.refuse(source, str(error))
            continue
        name = place.relative_to(path.parent).as_posix() if place.is_relative_to(path.parent) else place.name
        sizes = {checks.parse_size(each.get("original_width"), each.get("original_height")) for each in results} - {
            None
        }
        if draft := builder.add_image(name, source, ImageFile(place), sizes.pop() if len(sizes) == 1 else None):
            for index, each in enumerate(said):
                if not isinstance(each, dict):
                    draft.refuse(LabelKind.OBJECTS, f"{source}, result {index}", "it is no JSON object")
            _read(results, draft, source)
    return builder.build()


def _said(task: dict[str, Any]) -> Any:
    """The results that count, as they are written; None where there are none."""
    for key in ("annotations", "completions", "predictions"):
        listed = task.get(key)
        found = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        if counted := [each for each in found if not each.get("was_cancelled")]:
            newest = max(counted, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
            result = newest.get("result")
            return "" if result is None else result
    return None


def _place(data: dict[str, Any], folders: list[Path]) -> Path:
    """The picture's file: of the value that looks most like one's address."""
    addresses = [value for value in data.values() if isinstance(value, str)]
    addresses.sort(key=lambda value: not _path(value).lower().endswith(SUFFIXES))
    if not addresses:
        raise FileNotFoundError("its data names no picture")
    path = _path(addresses[0])
    last = PurePosixPath(path).name
    # An upload is called by eight letters and a dash before its own name.
    for name in dict.fromkeys((path.lstrip("/"), last, last.partition("-")[2])):
        try:
            return find_image(name, folders)
        except OSError:
            continue
    raise FileNotFoundError(
        f"there is no picture {last!r} beside the export, nor in images there; it is {addresses[0]!r}"
    )


def _path(address: str) -> str:
    """Of a URL, or of what local storage serves."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return address
    local = urllib.parse.parse_qs(parts.query).get("d")
    return local[0] if local else urllib.parse.unquote(parts.path)


def _read(results: list[dict[str, Any]], draft: ImageDraft, source: str) -> None:
    """Results of one region (its outline, and the words in it) have one id."""
    said, named = dict[str, str](), dict[str, Any]()
    for result in results:
        value = result.get("value")
        if isinstance(value, dict) and result.get("type") == "textarea" and _is_region(value):
            said[_region(result)] = str(_text(value) or "")
        elif isinstance(value, dict) and result.get("type") == "labels":
            named[_region(result)] = value.get("labels")
    shaped = {_region(result) for result in results if result.get("type") in _SHAPES}
    groups: dict[str, list[dict[str, Any]]] = {}
    for position, result in enumerate(results):
        where, kind, value = f"{source}, result {result.get('id', position)}", result.get("type"), result.get("value")
        if not isinstance(value, dict):
            draft.refuse(LabelKind.OBJECTS, where, "it has no value")
        elif kind in _SHAPES:
            words = said.get(_region(result))
            if words is None and kind == "polygonlabels" and (parent := _ring_of(result, shaped)):
                groups.setdefault(parent, []).append(result)
            else:
                groups.setdefault(_region(result), []).insert(0, result)
        elif kind == "textarea":
            if not isinstance(_text(value), str):
                draft.refuse(LabelKind.WORDS if _is_region(value) else LabelKind.CAPTIONS, where, "its text is no text")
            elif not _is_region(value):
                draft.add(LabelKind.CAPTIONS, where, checks.check_caption, _text(value))
            elif _region(result) not in shaped:
                draft.refuse(LabelKind.WORDS, where, "its words have no box, polygon or mask")
        elif kind == "labels" and _region(result) in shaped:
            continue
        elif kind in ("choices", "taxonomy", "rating", "number", "labels"):
            draft.builder.refuse(where, f"{kind} cannot be used")
        else:
            draft.refuse(LabelKind.OBJECTS, where, f"{kind} cannot be used; draw a box or a polygon")
    for region, parts in groups.items():
        words = said.get(region)
        kind = LabelKind.OBJECTS if words is None else LabelKind.WORDS
        draft.add(kind, f"{source}, result {region}", _shape, parts, named.get(region), words, draft.size)


def _text(value: dict[str, Any]) -> str | None:
    """What a person has written: lines in a list, or, in older exports, as it is; None for what is no text."""
    text = value.get("text") or ""
    lines = text if isinstance(text, list) else [text]
    return " ".join(lines) if all(isinstance(line, str) for line in lines) else None


def _region(result: dict[str, Any]) -> str:
    return str(result.get("id"))


def _is_region(value: dict[str, Any]) -> bool:
    return bool(value.keys() & {"points", "x", "rle"})


def _ring_of(result: dict[str, Any], regions: set[str]) -> str | None:
    """The region of which this is one more ring, as florist writes them: label-3, then label-3-1."""
    parent, dash, number = _region(result).rpartition("-")
    return parent if dash and number.isdigit() and parent.startswith("label-") and parent in regions else None


def _shape(results: list[dict[str, Any]], named: Any, words: str | None, size: Size) -> Annotation:
    first = results[0]["value"]
    names = next((first[key] for key in _NAMES if first.get(key)), named)
    name = names[0] if isinstance(names, list) and names else names
    angle = checks.check_number(first.get("rotation") or 0)
    rings = [ring for result in results for ring in _rings(result["value"], size)]
    if words is not None:
        return checks.check_words(words, rings, size)
    if not (first.keys() & {"points", "rle"} or angle):
        x1, y1, _, _, x2, y2, _, _ = rings[0]
        return checks.check_box(name, [x1, y1, x2, y2], size)
    return checks.check_polygon(name, rings, size)


def _rings(value: dict[str, Any], size: Size) -> list[list[float]]:
    """In pixels; values are percentages, and a box turns around its top left corner."""
    if "rle" in value:
        return masks.of_labelstudio(value["rle"], size)
    if "points" in value:
        pairs = value["points"]
        if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
            raise LabelError("its points are no list of x and y")
        corners: list[Point] = [(checks.check_number(x), checks.check_number(y)) for x, y in pairs]
        return [[v / 100 * size[i % 2] for i, v in enumerate(to_ring(corners))]]
    x, y, width, height = (checks.check_number(value.get(key)) for key in ("x", "y", "width", "height"))
    x1, y1 = x / 100 * size[0], y / 100 * size[1]
    box = box_to_ring((x1, y1, x1 + width / 100 * size[0], y1 + height / 100 * size[1]))
    return [rotate_ring(box, checks.check_number(value.get("rotation") or 0), (x1, y1))]
