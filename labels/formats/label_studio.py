"""Label Studio: its JSON export, and tasks with predictions; https://labelstud.io/guide/export.

The reader takes one annotation of a task: the ground truth, or else the newest; the newest prediction if nobody has
annotated the task. Of several images in a task, a result belongs to the one that it names in `to_name`; the labeling
configuration says which value of the task's data that is if it lies beside the export as label_config.xml. A region has
one label, its first. Results that were drawn on an image that was turned in Label Studio are refused.

A text of a region is a word, unless its control is called `region_text` (the phrase of a region that is no object) or
`attribute_NAME` (an attribute), as in florist's exports.

The writer writes tasks.json, the matching label_config.xml, and images/. Annotations become predictions, which a person
can accept or correct. Images in the folder get the address that local storage serves if this folder is the document
root; others get their address below `--image-url`, or else their name.
"""

import re
import urllib.parse
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, ClassVar

from labels.dataset import Dataset, DatasetError
from labels.formats.coco import is_coco
from labels.formats.label_studio_regions import ATTRIBUTE_PREFIX, REGION_TEXT, RegionReader, find_kind
from labels.formats.label_studio_tasks import Result, TaskImages, choose_annotation, is_embedded, list_paths
from labels.geometry import Shape, to_points, to_rings
from labels.image_files import ImageBytes
from labels.image_index import ImageNotFoundError, SeveralImagesError
from labels.image_resolver import FoundImage, ImageResolver, is_respelled
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.reading.image_draft import ImageDraft
from labels.reading.split_files import SplitFiles
from labels.writing import xml
from labels.writing.categories import CategoryIds, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_options import ImageOptions, ImagePlacement
from labels.writing.json_array import JsonArray
from prompts.annotations import Box, Quad, Text

IMAGE, BOXES, POLYGONS, WORDS, CAPTION = "image", "boxes", "polygons", "words", "caption"
_REGION_BOXES, _REGION_POLYGONS = "region_boxes", "region_polygons"  # controls without labels
_UPLOAD = re.compile(r"^.*/data/upload/(\d+/)?")


def is_label_studio(document: Any) -> bool:
    """Returns whether a JSON document is a list of Label Studio tasks."""
    return isinstance(document, list) and any(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in document[:100]
    )


def recognize(source: DatasetSource) -> bool:
    """Returns whether one of the JSON files is a list of tasks. Raises DatasetError for the export JSON-MIN."""
    minimal, has_coco = None, False
    for path, document in source.iter_json():
        if is_label_studio(document):
            return True
        has_coco |= is_coco(document)
        minimal = path if _is_minimal(document) else minimal
    if minimal is not None and not has_coco:
        raise DatasetError(f"{minimal} is Label Studio's export JSON-MIN, which does not say enough: export as JSON")
    return False


def _is_minimal(document: Any) -> bool:
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and {"annotation_id", "annotator"} <= first.keys()


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels of the exports. The names of images begin with the split, if there are several.

    Raises DatasetError.
    """
    datasets = [(path, doc) for path, doc in source.iter_json() if is_label_studio(doc) or is_coco(doc)]
    if any(is_coco(document) for _, document in datasets):
        raise source.make_several_error([path for path, _ in datasets])
    splits = SplitFiles([path for path, _ in datasets], source)
    builder = DatasetBuilder(source.path)
    for path, document in datasets:
        _read_tasks(path, document, _ImageFinder(path, splits, source.resolver, builder))
    return builder.build()


def _read_tasks(path: Path, document: list[Any], finder: "_ImageFinder") -> None:
    builder = finder.builder
    names = TaskImages(path, document)
    for position, task in enumerate(document):
        number = task.get("id", position + 1) if isinstance(task, dict) else position + 1
        where = f"{finder.source}: task {number}"
        if isinstance(task, dict) and isinstance(task.get("data"), dict):
            _read_task(task, where, finder, names)
        else:
            builder.refuse(where, "it is not a task: it has no data")


def _read_task(task: dict[str, Any], where: str, finder: "_ImageFinder", names: TaskImages) -> None:
    builder = finder.builder
    try:
        chosen = choose_annotation(task)
        if not isinstance(chosen.results, list):
            raise LabelError("its result is not a list")
        images = names.list_images(task["data"])
    except LabelError as error:
        builder.refuse(where, str(error))
        return
    for other, reason in chosen.left_out:
        builder.refuse(f"{where}, {other}", reason)
    results: dict[tuple[str, int], list[tuple[str, Result]]] = {image: [] for image in images}
    unclear = list[tuple[str, Any, str]]()
    for position, result in enumerate(chosen.results):
        source = f"{where}, result {result.get('id', position) if isinstance(result, dict) else position}"
        if not isinstance(result, dict):
            unclear.append((source, result, "it is not a JSON object"))
        elif result.get("type") == "relation":
            relation = f"relation {result.get('from_id')} → {result.get('to_id')}"
            builder.refuse(f"{where}, {relation}", "a relation cannot be used")
        else:
            try:
                results[names.find_image(result, images)].append((source, result))
            except LabelError as error:
                unclear.append((source, result, str(error)))
    drafts = []
    for image, address in images.items():
        part = f"-{image[0]}-{image[1]}" if len(images) > 1 else ""
        draft = finder.add_image(address, [result for _, result in results[image]], where, part)
        if draft is not None:
            if len({key for key, _ in images}) > 1 and image[0] not in names.drawn_on:
                draft.covered = draft.covered or set()  # nobody was asked to draw on it
            RegionReader(draft, where).read(results[image])
            drafts.append(draft)
    for source, result, reason in unclear:
        for draft in drafts:
            draft.incomplete.add(find_kind(result))
        builder.refuse(source, reason)


class _ImageFinder:
    """Finds the images of one export by their addresses."""

    def __init__(self, file: Path, splits: SplitFiles, resolver: ImageResolver, builder: DatasetBuilder) -> None:
        self.builder, self.source = builder, splits.get_source(file)
        self._file, self._splits, self._resolver = file, splits, resolver
        self._folders = resolver.layout.list_folders(file, splits.get_split(file))

    def add_image(self, address: str, results: list[Result], where: str, part: str) -> ImageDraft | None:
        """Returns the draft of the image with an address; None if there is no such image.

        An embedded image has the name of its task, with `part` added.
        """
        sizes = {checks.parse_size(each.get("original_width"), each.get("original_height")) for each in results}
        sizes -= {None}
        size = sizes.pop() if len(sizes) == 1 else None
        try:
            if is_embedded(address):
                name = f"{self._splits.get_prefix(self._file)}{where.rpartition(': ')[2].replace(' ', '-')}{part}"
                return self.builder.add_image(name, where, ImageBytes(checks.decode_base64(address)), size)
            found = self._find(address)
        except (OSError, LabelError) as error:
            self.builder.refuse(where, f"{error}; its address is {address[:200]!r}")
            return None
        self._splits.check_image(self._file, found.path)
        return self.builder.add_found(found, where, size, prefix=self._splits.get_prefix(self._file))

    def _find(self, address: str) -> FoundImage:
        """Returns the file of an image. Raises ImageNotFoundError."""
        # The path of an upload is in Label Studio's own storage, and its number is that of the project.
        paths = [_UPLOAD.sub("", path.replace("\\", "/")).lstrip("/") for path in list_paths(address)]
        for name in filter(None, paths):
            if exact := self._resolver.find_exact(name, self._folders):
                root = self._resolver.root
                relative = exact.relative_to(root).as_posix() if exact.is_relative_to(root) else exact.name
                return FoundImage(exact, relative, name if is_respelled(name, exact) else "", name)
        for name in paths[:-1]:
            try:
                return self._resolver.find_moved(name, self._folders)
            except SeveralImagesError:
                raise
            except ImageNotFoundError:
                continue
        return self._resolver.find_moved(paths[-1], self._folders)


class LabelStudioWriter(DatasetWriter):
    """tasks.json, label_config.xml and images/."""

    default_placement: ClassVar[ImagePlacement] = ImagePlacement.COPY
    keeps_regions: ClassVar[bool] = True
    holds_urls: ClassVar[bool] = True

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        super().__init__(folder, report, images)
        self._boxes, self._polygons = CategoryIds(), CategoryIds()
        self._region_controls, self._attributes = dict[str, str](), dict[str, None]()
        self._file = folder.open("tasks.json")
        self._file.write("[")
        self._tasks = JsonArray(self._file)

    def add(self, image: LabeledImage, name: str) -> int:
        traced = image.traced_annotations
        results = [r for i, each in enumerate(traced) for r in self._to_results(each, f"label-{i}", image.size)]
        for i, each in enumerate(image.regions):
            results += self._to_results(each, f"region-{i}", image.size, is_region=True)
        scores = [annotation.score for annotation in image.annotations if annotation.score is not None]
        prediction: dict[str, Any] = {"model_version": "florist", "result": results}
        if scores:
            prediction["score"] = round(min(scores), 6)  # Label Studio can sort by it: least certain first
        local = f"/data/local-files/?d={urllib.parse.quote(f'images/{name}')}" if self.images.are_included else name
        address = self.images.make_url(name) or local
        data = {IMAGE: address, "name": image.name}
        self._tasks.append({"id": self.report.images, "data": data, "predictions": [prediction]})
        return len(traced) + len(image.regions)

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
        for region_control, region_tag in self._region_controls.items():
            ET.SubElement(view, region_tag, name=region_control, toName=IMAGE)
        texts = [(WORDS, "text")]
        if self._region_controls:
            texts.append((REGION_TEXT, "phrase"))
        texts += [(f"{ATTRIBUTE_PREFIX}{name}", name) for name in self._attributes]
        for text_control, placeholder in texts:
            control = ET.SubElement(view, "TextArea", name=text_control, toName=IMAGE, placeholder=placeholder)
            control.attrib |= {"perRegion": "true", "editable": "true", "maxSubmissions": "1"}
        ET.SubElement(view, "TextArea", name=CAPTION, toName=IMAGE, editable="true")
        self.folder.write("label_config.xml", xml.to_fragment(view))

    def _to_results(
        self, traced: TracedAnnotation, name: str, size: Size, *, is_region: bool = False
    ) -> list[dict[str, Any]]:
        """Returns a result for each ring, and one for each text of the annotation: words, and attributes."""
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
            if traced.attributes:
                self.leave_out("attributes", traced, is_written=True)  # a caption is no region
            caption: dict[str, Any] = {"text": [annotation.label]}
            return [{"id": name, "type": "textarea", "from_name": CAPTION, **common, "value": caption}]
        places = _to_places(annotation, size)
        results: list[dict[str, Any]] = []
        for i, place in enumerate(places):
            common["id"] = f"{name}-{i}" if i else name
            kind = "polygon" if "points" in place else "rectangle"
            if is_region:
                control = _REGION_POLYGONS if kind == "polygon" else _REGION_BOXES
                self._region_controls[control] = kind.capitalize()
                results.append({**common, "type": kind, "from_name": control, "value": place})
            else:
                label = get_category(annotation)
                category = self.report.rename_class(label, xml.to_legal_text(label))
                control, ids = (POLYGONS, self._polygons) if kind == "polygon" else (BOXES, self._boxes)
                ids.get_id(category)
                value = {**place, f"{kind}labels": [category]}
                results.append({**common, "type": f"{kind}labels", "from_name": control, "value": value})
        texts = {WORDS: annotation.label} if isinstance(annotation, Quad) else {}
        texts |= {REGION_TEXT: annotation.label} if is_region else {}
        for attribute, text in traced.attributes.items():
            control = xml.to_legal_text(attribute)
            self._attributes[control] = None
            texts[f"{ATTRIBUTE_PREFIX}{control}"] = text
        common["id"] = name
        for control, text in texts.items():
            value = {**places[0], "text": [text]}
            results.append({**common, "type": "textarea", "from_name": control, "value": value})
        return results


def _to_places(shape: Shape, size: Size) -> list[dict[str, Any]]:
    """Returns the values of a box, or of each ring of another shape."""
    if isinstance(shape, Box):
        (x1, y1), (x2, y2) = _to_percent(list(shape.box), size)
        return [{"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}]
    return [{"points": _to_percent(ring, size), "closed": True} for ring in to_rings(shape)]


def _to_percent(ring: list[float], size: Size) -> list[list[float]]:
    width, height = size
    return [[x / width * 100, y / height * 100] for x, y in to_points(ring)]
