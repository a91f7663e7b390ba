"""Label Studio: its JSON export, and tasks with predictions; https://labelstud.io/guide/export.

The reader takes the newest annotation of a task, or the newest prediction if nobody has annotated it. The writer writes
tasks.json, the matching label_config.xml, and images/. Annotations become predictions, which a person can accept or
correct. Copied images get the address that local storage serves if this folder is the document root; others get their
name.
"""

import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path, PurePosixPath
from typing import Any

from labels import masks
from labels.dataset import Dataset
from labels.formats.coco import is_coco
from labels.geometry import box_to_ring, rotate_ring, to_points, to_rings
from labels.image_files import SUFFIXES, ImageFile, find_image
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks
from labels.reading.checks import Size
from labels.reading.dataset_builder import DatasetBuilder, ImageDraft
from labels.reading.dataset_source import DatasetSource
from labels.writing import xml
from labels.writing.categories import CategoryIds, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.json_array import JsonArray
from prompts.annotations import Annotation, Box, Quad, Text

IMAGE, BOXES, POLYGONS, WORDS, CAPTION = "image", "boxes", "polygons", "words", "caption"
_SHAPE_TYPES = ("rectangle", "rectanglelabels", "polygon", "polygonlabels", "brush", "brushlabels")
_LABEL_KEYS = ("rectanglelabels", "polygonlabels", "brushlabels", "labels")


def is_label_studio(document: Any) -> bool:
    """Returns whether a JSON document is a list of Label Studio tasks."""
    return isinstance(document, list) and any(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in document[:100]
    )


def recognize(source: DatasetSource) -> bool:
    """Returns whether one of the JSON files is a list of tasks."""
    return any(is_label_studio(document) for _, document in source.iter_json())


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels of an export.

    Images are looked for beside it and in `images` there, by the path in their address and by its last part. Raises
    DatasetError.
    """
    datasets = [(path, doc) for path, doc in source.iter_json() if is_label_studio(doc) or is_coco(doc)]
    if len(datasets) > 1:
        raise source.make_several_error([path for path, _ in datasets])
    path, document = datasets[0]
    builder = DatasetBuilder(path)
    for position, task in enumerate(document):
        number = task.get("id", position + 1) if isinstance(task, dict) else position + 1
        where = f"{path.name}: task {number}"
        if isinstance(task, dict) and isinstance(task.get("data"), dict):
            _read_task(task, where, path.parent, builder)
        else:
            builder.refuse(where, "it is not a task: it has no data")
    return builder.build()


def _read_task(task: dict[str, Any], where: str, folder: Path, builder: DatasetBuilder) -> None:
    found = _find_results(task)
    if not isinstance(found, list):
        builder.refuse(where, "nobody has annotated it" if found is None else "its result is not a list")
        return
    results = [result for result in found if isinstance(result, dict)]
    try:
        path = _find_image(task["data"], [folder, folder / "images"])
    except OSError as error:
        builder.refuse(where, str(error))
        return
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    sizes = {checks.parse_size(each.get("original_width"), each.get("original_height")) for each in results} - {None}
    draft = builder.add_image(name, where, ImageFile(path), sizes.pop() if len(sizes) == 1 else None)
    if draft is None:
        return
    for index, result in enumerate(found):
        if not isinstance(result, dict):
            draft.refuse_label(LabelKind.OBJECTS, f"{where}, result {index}", "it is not a JSON object")
    _read_results(results, draft, where)


def _find_results(task: dict[str, Any]) -> Any:
    """Returns the results that count, unchecked; None if there are none."""
    for key in ("annotations", "completions", "predictions"):
        value = task.get(key)
        listed = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
        if valid := [each for each in listed if not each.get("was_cancelled")]:
            newest = max(valid, key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
            result = newest.get("result")
            return "" if result is None else result
    return None


def _find_image(data: dict[str, Any], folders: list[Path]) -> Path:
    """Returns the file of the image. Prefers values that end in an image suffix. Raises FileNotFoundError."""
    addresses = [value for value in data.values() if isinstance(value, str)]
    addresses.sort(key=lambda value: not _to_path(value).lower().endswith(SUFFIXES))
    if not addresses:
        raise FileNotFoundError("its data names no image")
    path = _to_path(addresses[0])
    last = PurePosixPath(path).name
    # The name of an uploaded file has eight letters and a dash before its own.
    for name in dict.fromkeys((path.lstrip("/"), last, last.partition("-")[2])):
        try:
            return find_image(name, folders)
        except OSError:
            continue
    raise FileNotFoundError(
        f"there is no image {last!r} beside the export or in images there; its address is {addresses[0]!r}"
    )


def _to_path(address: str) -> str:
    """Returns the path in a URL, or in an address of local storage."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return address
    local = urllib.parse.parse_qs(parts.query).get("d")
    return local[0] if local else urllib.parse.unquote(parts.path)


def _read_results(results: list[dict[str, Any]], draft: ImageDraft, where: str) -> None:
    """Adds the annotations of an image. The results of one region (outline, label, text) have the same id."""
    texts, labels = dict[str, str](), dict[str, Any]()
    for result in results:
        value = result.get("value")
        if isinstance(value, dict) and result.get("type") == "textarea" and _is_region(value):
            texts[_get_region_id(result)] = str(_read_text(value) or "")
        elif isinstance(value, dict) and result.get("type") == "labels":
            labels[_get_region_id(result)] = value.get("labels")
    shaped = {_get_region_id(result) for result in results if result.get("type") in _SHAPE_TYPES}
    groups: dict[str, list[dict[str, Any]]] = {}
    for position, result in enumerate(results):
        source, kind, value = f"{where}, result {result.get('id', position)}", result.get("type"), result.get("value")
        region = _get_region_id(result)
        if not isinstance(value, dict):
            draft.refuse_label(LabelKind.OBJECTS, source, "it has no value")
        elif kind in _SHAPE_TYPES:
            if texts.get(region) is None and kind == "polygonlabels" and (parent := _find_parent(result, shaped)):
                groups.setdefault(parent, []).append(result)
            else:
                groups.setdefault(region, []).insert(0, result)
        elif kind == "textarea":
            _read_textarea(value, region, shaped, draft, source)
        elif kind == "labels" and region in shaped:
            continue
        elif kind in ("choices", "taxonomy", "rating", "number", "labels"):
            draft.builder.refuse(source, f"{kind} cannot be used")
        else:
            draft.refuse_label(LabelKind.OBJECTS, source, f"{kind} cannot be used; draw a box or a polygon")
    for region, parts in groups.items():
        words = texts.get(region)
        label_kind = LabelKind.OBJECTS if words is None else LabelKind.WORDS
        draft.add(label_kind, f"{where}, result {region}", _read_shape, parts, labels.get(region), words, draft.size)


def _read_textarea(value: dict[str, Any], region: str, shaped: set[str], draft: ImageDraft, source: str) -> None:
    is_region = _is_region(value)
    if not isinstance(_read_text(value), str):
        draft.refuse_label(LabelKind.WORDS if is_region else LabelKind.CAPTIONS, source, "its text is not text")
    elif not is_region:
        draft.add(LabelKind.CAPTIONS, source, checks.check_caption, _read_text(value))
    elif region not in shaped:
        draft.refuse_label(LabelKind.WORDS, source, "its words have no box, polygon or mask")


def _read_text(value: dict[str, Any]) -> str | None:
    """Returns the entered text, a list of lines or (in older exports) one text; None if it is not text."""
    text = value.get("text") or ""
    lines = text if isinstance(text, list) else [text]
    return " ".join(lines) if all(isinstance(line, str) for line in lines) else None


def _get_region_id(result: dict[str, Any]) -> str:
    return str(result.get("id"))


def _is_region(value: dict[str, Any]) -> bool:
    return bool(value.keys() & {"points", "x", "rle"})


def _find_parent(result: dict[str, Any], regions: set[str]) -> str | None:
    """Returns the region that this is another ring of, as the writer names them: label-3, then label-3-1."""
    parent, dash, number = _get_region_id(result).rpartition("-")
    return parent if dash and number.isdigit() and parent.startswith("label-") and parent in regions else None


def _read_shape(results: list[dict[str, Any]], labels: Any, words: str | None, size: Size) -> Annotation:
    first = results[0]["value"]
    names = next((first[key] for key in _LABEL_KEYS if first.get(key)), labels)
    name = names[0] if isinstance(names, list) and names else names
    angle = checks.check_number(first.get("rotation") or 0)
    rings = [ring for result in results for ring in _read_rings(result["value"], size)]
    if words is not None:
        return checks.check_words(words, rings, size)
    if not (first.keys() & {"points", "rle"} or angle):
        x1, y1, _, _, x2, y2, _, _ = rings[0]
        return checks.check_box(name, [x1, y1, x2, y2], size)
    return checks.check_polygon(name, rings, size)


def _read_rings(value: dict[str, Any], size: Size) -> list[list[float]]:
    """Returns rings in pixels. Values are percentages, and a box rotates around its top left corner."""
    if "rle" in value:
        return masks.decode_label_studio_mask(value["rle"], size)
    if "points" in value:
        return [[v / 100 * size[i % 2] for i, v in enumerate(checks.check_pairs(value["points"]))]]
    x, y, width, height = (checks.check_number(value.get(key)) for key in ("x", "y", "width", "height"))
    x1, y1 = x / 100 * size[0], y / 100 * size[1]
    ring = box_to_ring((x1, y1, x1 + width / 100 * size[0], y1 + height / 100 * size[1]))
    return [rotate_ring(ring, checks.check_number(value.get("rotation") or 0), (x1, y1))]


class LabelStudioWriter(DatasetWriter):
    """tasks.json, label_config.xml and images/."""

    def __init__(self, folder: ExportFolder, report: ExportReport, *, has_copies: bool) -> None:
        super().__init__(folder, report, has_copies=has_copies)
        self._boxes, self._polygons = CategoryIds(), CategoryIds()
        self._file = folder.open("tasks.json")
        self._file.write("[")
        self._tasks = JsonArray(self._file)

    def add(self, image: LabeledImage, name: str) -> int:
        traced = image.traced_annotations
        results = [r for i, each in enumerate(traced) for r in self._to_results(each, f"label-{i}", image.size)]
        scores = [annotation.score for annotation in image.annotations if annotation.score is not None]
        prediction: dict[str, Any] = {"model_version": "florist", "result": results}
        if scores:
            prediction["score"] = round(min(scores), 6)  # Label Studio can sort by it: least certain first
        address = f"/data/local-files/?d={urllib.parse.quote(f'images/{name}')}" if self.has_copies else name
        data = {IMAGE: address, "name": image.name}
        self._tasks.append({"id": self.report.images, "data": data, "predictions": [prediction]})
        return len(traced)

    def close(self) -> None:
        self._file.write("\n]\n")
        view = ET.Element("View")
        ET.SubElement(view, "Image", name=IMAGE, value=f"${IMAGE}", zoom="true", zoomControl="true")
        for tag, name, categories in (
            ("RectangleLabels", BOXES, self._boxes),
            ("PolygonLabels", POLYGONS, self._polygons),
        ):
            if not categories.by_name:
                continue  # Label Studio refuses a control without labels
            control = ET.SubElement(view, tag, name=name, toName=IMAGE)
            for value in categories.by_name:
                ET.SubElement(control, "Label", value=value)
        ET.SubElement(view, "TextArea", name=WORDS, toName=IMAGE, perRegion="true", editable="true", maxSubmissions="1")
        ET.SubElement(view, "TextArea", name=CAPTION, toName=IMAGE, editable="true")
        self.folder.write("label_config.xml", xml.to_fragment(view))

    def _to_results(self, traced: TracedAnnotation, name: str, size: Size) -> list[dict[str, Any]]:
        """Returns a result for each ring, and one for the words."""
        annotation = traced.annotation
        common: dict[str, Any] = {
            "to_name": IMAGE,
            "original_width": size[0],
            "original_height": size[1],
            "image_rotation": 0,
        }
        if annotation.score is not None:
            common["score"] = round(annotation.score, 6)
        if traced.review:
            common["meta"] = {"text": [traced.review]}
        if isinstance(annotation, Text):
            value: dict[str, Any] = {"text": [annotation.label]}
            return [{"id": name, "type": "textarea", "from_name": CAPTION, **common, "value": value}]
        category = xml.to_legal_text(get_category(annotation))
        if isinstance(annotation, Box):
            self._boxes.get_id(category)
            (x1, y1), (x2, y2) = _to_percent(list(annotation.box), size)
            corner = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
            value = {**corner, "rectanglelabels": [category]}
            return [{"id": name, "type": "rectanglelabels", "from_name": BOXES, **common, "value": value}]
        self._polygons.get_id(category)
        results = []
        for i, ring in enumerate(to_rings(annotation)):
            outline = {"points": _to_percent(ring, size), "closed": True}
            region = {"id": f"{name}-{i}" if i else name, **common}
            value = {**outline, "polygonlabels": [category]}
            results.append({**region, "type": "polygonlabels", "from_name": POLYGONS, "value": value})
            if isinstance(annotation, Quad):
                value = {**outline, "text": [annotation.label]}
                results.append({**region, "type": "textarea", "from_name": WORDS, "value": value})
        return results


def _to_percent(ring: list[float], size: Size) -> list[list[float]]:
    width, height = size
    return [[x / width * 100, y / height * 100] for x, y in to_points(ring)]
