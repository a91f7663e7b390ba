"""Reads the regions of one image of Label Studio. The results of one region (outline, label, text) have the same id."""

from typing import Any

from labels import masks
from labels.formats.label_studio_tasks import Result, has_place
from labels.geometry import box_to_ring, ellipse_to_ring, rotate_ring
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.image_draft import ImageDraft
from labels.writing.categories import WORD_CATEGORY
from prompts.annotations import Annotation, Box, Quad

REGION_TEXT = "region_text"  # the control with the text of a region that is no object
ATTRIBUTE_PREFIX = "attribute_"  # of controls with an attribute of a region
_SHAPES = ("rectangle", "polygon", "brush", "ellipse")
_SHAPE_TYPES = (*_SHAPES, *(f"{shape}labels" for shape in _SHAPES))
_LABEL_KEYS = (*(f"{shape}labels" for shape in _SHAPES), "labels")
_POINT_TYPES = ("keypoint", "keypointlabels", "vector", "vectorlabels")
# Answers about a whole image, or about other data than images.
_ANSWER_TYPES = (
    "choices", "taxonomy", "rating", "number", "datetime", "ranker", "pairwise", "labels",
    "hypertextlabels", "paragraphlabels", "timeserieslabels", "timelinelabels",
)  # fmt: skip


def find_kind(result: Any) -> LabelKind:
    """Returns the kind of label that is missing if a result cannot be used."""
    kind = result.get("type") if isinstance(result, dict) else None
    if kind == "textarea":
        return LabelKind.WORDS if has_place(result.get("value")) else LabelKind.CAPTIONS
    return LabelKind.CAPTIONS if kind in _ANSWER_TYPES else LabelKind.OBJECTS


class RegionReader:
    """Adds the annotations of an image to its draft. `where` is the task."""

    def __init__(self, draft: ImageDraft, where: str) -> None:
        self.draft, self.where = draft, where
        self._texts = dict[str, list[Result]]()  # by region
        self._labels = dict[str, list[Any]]()
        self._region_texts = dict[str, Any]()
        self._attributes = dict[str, dict[str, Any]]()
        self._shaped = set[str]()

    def read(self, results: list[tuple[str, Result]]) -> None:
        """Adds all annotations. `results`: each with its source."""
        for _, result in results:
            kind, value, region = result.get("type"), result.get("value"), _get_region_id(result)
            if kind in _SHAPE_TYPES:
                self._shaped.add(region)
            elif (name := _find_own_control(result)) is not None:
                text = _join_lines(value if isinstance(value, dict) else {})
                if name == REGION_TEXT:
                    self._region_texts[region] = text
                else:
                    self._attributes.setdefault(region, {})[name.removeprefix(ATTRIBUTE_PREFIX)] = text
            elif kind == "textarea" and has_place(value):
                self._texts.setdefault(region, []).append(result)
            elif kind == "labels" and isinstance(value, dict):
                self._labels[region] = _list_labels(value.get("labels"))
        groups: dict[str, list[Result]] = {}
        for source, result in results:
            self._read_result(result, source, groups)
        for region, parts in groups.items():
            self._read_region(region, parts, f"{self.where}, result {region}")

    def _read_result(self, result: Result, source: str, groups: dict[str, list[Result]]) -> None:
        kind, value, region = result.get("type"), result.get("value"), _get_region_id(result)
        if not isinstance(value, dict):
            self.draft.refuse_label(find_kind(result), source, "it has no value")
        elif kind in _SHAPE_TYPES:
            parent = _find_parent(result, self._shaped) if kind in ("polygonlabels", "polygon") else None
            if parent is not None and region not in self._texts:
                groups.setdefault(parent, []).append(result)
            else:
                groups.setdefault(region, []).insert(0, result)
        elif _find_own_control(result) is not None:
            if region not in self._shaped:
                self.draft.leave_out(source, "its text has no box, polygon or mask")
        elif kind == "textarea":
            self._read_text(value, region, source)
        elif kind == "labels" and region in self._shaped:
            pass  # the label of a shape
        elif kind in _ANSWER_TYPES:
            self.draft.leave_out(source, f"{kind} cannot be used")
        elif kind in _POINT_TYPES and (labels := _list_labels(value.get(kind)) or self._labels.get(region)):
            for label in labels:
                self.draft.leave_out(source, f"{kind} cannot be used; draw a box or a polygon", label)
        else:
            self.draft.refuse_label(LabelKind.OBJECTS, source, f"{kind} cannot be used; draw a box or a polygon")

    def _read_text(self, value: dict[str, Any], region: str, source: str) -> None:
        """Adds a caption. Checks words, which are added with their region."""
        text = _join_lines(value)
        if not has_place(value):
            if text is None:
                self.draft.refuse_label(LabelKind.CAPTIONS, source, "its text is not text")
            else:
                self.draft.add(LabelKind.CAPTIONS, source, checks.check_caption, text)
        elif text is None:
            self.draft.refuse_label(LabelKind.WORDS, source, "its text is not text")
        elif region not in self._shaped:
            self.draft.refuse_label(LabelKind.WORDS, source, "its words have no box, polygon or mask")

    def _read_region(self, region: str, parts: list[Result], source: str) -> None:
        first = parts[0]["value"]
        own = [label for part in parts for key in _LABEL_KEYS for label in _list_labels(part["value"].get(key))]
        labels = list(dict.fromkeys(map(_to_hashable, own + self._labels.get(region, []))))
        name = labels[0] if labels else None
        texts, attributes = self._texts.get(region), self._attributes.get(region, {})
        kind = LabelKind.OBJECTS if texts is None else LabelKind.WORDS
        try:
            self._check_view(parts)
            if texts is not None:
                added: object = self.draft.add(kind, source, _read_words, parts, texts, self.draft.size)
                self.draft.describe(source, added, attributes)
                if set(labels) - {WORD_CATEGORY}:
                    self.draft.builder.note_once(self.where.rpartition(": ")[0], "labels of words are not used")
                for label in labels:
                    self.draft.leave_out_class(source, label)
                return
            rings = [ring for part in parts for ring in _read_rings(part["value"], self.draft.size)]
            angle = checks.check_number(first.get("rotation") or 0)
        except LabelError as error:
            if region in self._region_texts and not labels:
                self.draft.builder.refuse(source, str(error))
            else:
                self.draft.refuse_label(kind, source, str(error))
            return
        is_box = not (angle or first.keys() & {"points", "rle", "radiusX"})
        if region in self._region_texts and not labels:
            self._add_region(region, rings, is_box, source)
            return
        if is_box:
            added = self.draft.add(kind, source, _make_box, name, first, rings[0], self.draft.size)
        else:
            added = self.draft.add_outline(source, name, rings)
        self.draft.describe(source, added, attributes)
        for label in labels[1:] if added else ():
            self.draft.leave_out(source, f"its second label {label!r} is not used; an object has one", label)

    def _add_region(self, region: str, rings: list[list[float]], is_box: bool, source: str) -> None:
        """Adds a region with free text, which is no object."""
        try:
            if is_box:
                x1, y1, _, _, x2, y2, _, _ = rings[0]
                shape: Annotation = checks.check_box(REGION_TEXT, [x1, y1, x2, y2], self.draft.size)
            else:
                shape = checks.check_polygon(REGION_TEXT, rings, self.draft.size)
        except LabelError as error:
            self.draft.builder.refuse(source, str(error))
            return
        self.draft.add_region(source, self._region_texts[region], shape, self._attributes.get(region, {}))

    def _check_view(self, parts: list[Result]) -> None:
        """Raises LabelError if a region was drawn on another view of the image."""
        for part in parts:
            if checks.check_number(part.get("image_rotation") or 0) % 360:
                raise LabelError(
                    f"it was drawn on the image turned by {part['image_rotation']}°: turn it back in Label Studio"
                )
            size = checks.parse_size(part.get("original_width"), part.get("original_height"))
            if size not in (None, self.draft.size):
                raise LabelError(
                    f"it is for an image of {size[0]}×{size[1]} pixels, its image has "
                    f"{self.draft.size[0]}×{self.draft.size[1]}"
                )


def _read_words(parts: list[Result], texts: list[Result], size: Size) -> Quad:
    found = {_join_lines(text["value"]) for text in texts}
    if len(found) > 1:
        raise LabelError("it has several texts, and which one it shows is unknown")
    rings = [ring for part in parts for ring in _read_rings(part["value"], size)]
    return checks.check_words(found.pop() or "", rings, size)


def _join_lines(value: dict[str, Any]) -> str | None:
    """Returns the entered text, a list of lines or (in older exports) one text; None if it is not text."""
    text = value.get("text") or ""
    lines = text if isinstance(text, list) else [text]
    return " ".join(lines) if all(isinstance(line, str) for line in lines) else None


def _list_labels(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _to_hashable(label: Any) -> Any:
    """Returns a label, or what can be shown of one that is not text."""
    return label if isinstance(label, str | int | float | bool | None) else ()


def _find_own_control(result: Result) -> str | None:
    """Returns the name of a control of florist's exports for texts of regions that are no words; None for others."""
    name = result.get("from_name")
    if result.get("type") != "textarea" or not isinstance(name, str):
        return None
    return name if name == REGION_TEXT or name.startswith(ATTRIBUTE_PREFIX) else None


def _get_region_id(result: Result) -> str:
    return str(result.get("id"))


def _find_parent(result: Result, regions: set[str]) -> str | None:
    """Returns the region that this is another ring of, as the writer names them: label-3, then label-3-1."""
    parent, dash, number = _get_region_id(result).rpartition("-")
    return (
        parent if dash and number.isdigit() and parent.startswith(("label-", "region-")) and parent in regions else None
    )


def _make_box(name: Any, value: dict[str, Any], ring: list[float], size: Size) -> Box:
    """Returns the box of a rectangle that is not turned. Raises LabelError."""
    x1, y1, _, _, x2, y2, _, _ = ring
    percentages = [checks.check_number(value.get(key)) for key in ("x", "y", "width", "height")]
    checks.check_sides(percentages, "x, y, width, height in %", x2 - x1, y2 - y1)
    return checks.check_box(name, [x1, y1, x2, y2], size)


def _read_rings(value: dict[str, Any], size: Size) -> list[list[float]]:
    """Returns rings in pixels. Values are percentages, and a box rotates around its top left corner."""
    if "rle" in value:
        return masks.decode_label_studio_mask(value["rle"], size)
    if "points" in value:
        return [[v / 100 * size[i % 2] for i, v in enumerate(checks.check_pairs(value["points"]))]]
    keys = ("x", "y", "radiusX", "radiusY") if "radiusX" in value else ("x", "y", "width", "height")
    x, y, width, height = (checks.check_number(value.get(key)) / 100 * size[i % 2] for i, key in enumerate(keys))
    angle = checks.check_number(value.get("rotation") or 0)
    if "radiusX" in value:
        return [rotate_ring(ellipse_to_ring((x, y), width, height), angle, (x, y))]
    return [rotate_ring(box_to_ring((x, y, x + width, y + height)), angle, (x, y))]
