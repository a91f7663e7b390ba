"""Reads the annotations of one COCO file.

What files of the field have is read as it is meant: ids as numbers or text; outlines that are flat lists or lists of
points; boxes that CVAT turned (`attributes.rotation`). A polygon that cannot be used leaves the box, a mask does not.

`iscrowd: 1` marks a region of many objects, which cannot be used. But CVAT marks every mask so, and supervision those
with holes. A mask is one object if its `attributes` are CVAT's (they have `occluded`) and do not say `is_crowd`, or if
all objects of the file, two or more, are masks that are marked. Otherwise it may be both, and is refused.
"""

import re
from collections.abc import Mapping
from typing import Any

from labels import masks
from labels.geometry import bounding_box, box_to_ring, rotate_ring, simplify_for_answer
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.image_draft import ImageDraft
from labels.sample import Sample
from labels.writing.categories import REVIEW
from prompts.annotations import Annotation, Box, Polygon, Text
from prompts.grammar import FILLER_PHRASES
from prompts.tasks import TASKS

_TOLERANCE = 0.01  # pixels between a ring and a bbox that describe the same rectangle
_SAME_BOX = 1.0  # pixels between the bboxes of one annotation in two files
_CVAT = "occluded"  # an attribute of all annotations that CVAT exports
KNOWN_ATTRIBUTES = (
    _CVAT,
    "rotation",
    "is_crowd",
    "keyframe",
    "outside",
    "track_id",
    "z_order",
    "source",
    "score",
    REVIEW,
)
"""Names of attributes that are no attributes of the object: those of CVAT, and what florist writes."""

_WHOLE = re.compile(r"\s*(-?(?:0|[1-9][0-9]{0,17}))(?:\.0+)?\s*")
_CROWD = "it is a crowd, one region for many objects (iscrowd is 1); if it is one object, set iscrowd to 0"

Known = dict[tuple[int, Any], Annotation]


def to_key(value: Any) -> Any:
    """Returns an id that can be looked up: 1 for 1.0 and "1"; None if it cannot be an id."""
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        return int(whole[1]) if whole else value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class CocoAnnotationReader:
    """Reads annotations of one file. `name` is the file's name in messages.

    `known` has the objects of earlier files, by image and id: the same annotation can be in several files, with an
    outline in one of them only. None: it is the only file.
    """

    def __init__(self, document: Mapping[str, Any], name: str, builder: DatasetBuilder, known: Known | None) -> None:
        self.builder, self.name = builder, name
        self._entries = document["annotations"] if isinstance(document["annotations"], list) else []
        if self._entries is not document["annotations"]:
            builder.refuse(name, "its annotations are not a list")
        self._categories = dict[Any, Any]()
        for category in _select_dicts(document.get("categories")):
            key, text = to_key(category.get("id")), category.get("name")
            if key in self._categories and self._categories[key] != text:
                builder.refuse(f"{name}: category {key}", f"it is called {self._categories[key]!r}, and also {text!r}")
                text = None
            self._categories[key] = text
        entries = _select_dicts(self._entries)
        kinds = list(map(_find_kind, entries))
        objects = [entry for entry, kind in zip(entries, kinds, strict=True) if kind is LabelKind.OBJECTS]
        self._only_marked = len(objects) > 1 and all(is_set(each.get("iscrowd")) and _is_mask(each) for each in objects)
        self.kinds = set(kinds)
        """The kinds of labels that the file is about."""
        if self._categories:
            self.kinds.add(LabelKind.OBJECTS)
        if any("segments_info" in entry for entry in entries):
            self.kinds.clear()  # panoptic
        self._known, self._own = known, Known()

    def list_classes(self) -> set[str]:
        """Returns the names of the file's categories."""
        return self._name_classes(self._categories)

    def list_checked_classes(self, image: Mapping[str, Any], draft: ImageDraft) -> set[str]:
        """Returns the classes that an image of LVIS was labeled for: it shows all of their objects, or none."""
        absent, partial = image.get("neg_category_ids"), image.get("not_exhaustive_category_ids")
        classes = {each.label for each in draft.annotations if isinstance(each, Box | Polygon)}
        return (classes | self._name_classes(absent)) - self._name_classes(partial)

    def _name_classes(self, ids: Any) -> set[str]:
        names = [self._categories.get(to_key(each)) for each in (ids if isinstance(ids, list | dict) else ())]
        return {" ".join(name.split()) for name in names if isinstance(name, str)}

    def read(self, images: Mapping[Any, ImageDraft | None]) -> None:
        """Adds all annotations to `images`, by id. None is an image that cannot be used."""
        for position, entry in enumerate(self._entries):
            number = entry.get("id", position) if isinstance(entry, dict) else position
            source = f"{self.name}: annotation {number}"
            if not isinstance(entry, dict):
                self.builder.refuse(source, "it is not a JSON object")
            elif (key := to_key(entry.get("image_id"))) not in images:
                self.builder.refuse(source, f"its image is {entry.get('image_id')!r}, which the file does not list")
            elif draft := images[key]:
                self._read_entry(entry, draft, source)
        if self._known is not None:
            self._known |= self._own

    def _read_entry(self, entry: dict[str, Any], draft: ImageDraft, source: str) -> None:
        kind = _find_kind(entry)
        if "segments_info" in entry:
            self.builder.note_once(self.name, "panoptic segments cannot be used; use the file of instances")
        elif kind is LabelKind.CAPTIONS:
            self._describe(entry, draft.add(kind, source, checks.check_caption, entry["caption"]), draft, source)
        elif is_set(entry.get("iscrowd")) and not self._is_one_object(entry):
            draft.refuse_label(kind, source, _CROWD)
        elif is_set(entry.get("ignore")):
            draft.refuse_label(kind, source, "it is a region to ignore (ignore is 1)")
        elif kind is LabelKind.WORDS:
            self._read_words(entry, draft, source)
        else:
            shape = self._read_object(entry, draft, source)
            self._describe(entry, shape, draft, source)
            if isinstance(shape, Box | Polygon):
                sentences = entry.get("sentences") or []
                for sentence in sentences if isinstance(sentences, list) else [sentences]:
                    _add_sentence(sentence, shape, draft, source)

    def _is_one_object(self, entry: dict[str, Any]) -> bool:
        """Returns whether a mask that is marked as a crowd is one object; see the module."""
        attributes = entry.get("attributes")
        if not isinstance(attributes, dict):
            attributes = {}
        is_marked = is_set(attributes.get("is_crowd")) or is_set(attributes.get("iscrowd"))
        return _is_mask(entry) and not is_marked and (_CVAT in attributes or self._only_marked)

    def _read_object(self, entry: dict[str, Any], draft: ImageDraft, source: str) -> Annotation | None:
        key = to_key(entry.get("category_id"))
        if key not in self._categories:
            reason = f"its category is {entry.get('category_id')!r}, which the file does not list"
            draft.refuse_label(LabelKind.OBJECTS, source, reason)
            return None
        label, box = self._categories[key], _find_corners(entry)
        same = (id(draft), to_key(entry.get("id")))
        earlier = self._known.get(same) if self._known else None
        if isinstance(earlier, Box | Polygon) and box is not None and _is_same_object(earlier, label, box):
            draft.leave_out(source, "it is a duplicate: an earlier file has the same object with the same id")
            return None
        try:
            rings = read_rings(entry, draft.size)
            if not rings or (len(rings) == 1 and box is not None and _is_bbox(rings, box, entry)):
                rings = []
                angle = _find_rotation(entry)
                if angle and box is not None:
                    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
                    rings = [rotate_ring(box_to_ring(box), angle, center)]
        except LabelError as error:
            shape = None
            if box is None or _is_mask(entry):  # the box of a broken mask may be of another image size
                draft.refuse_label(LabelKind.OBJECTS, source, str(error))
            elif shape := draft.add(LabelKind.OBJECTS, source, _check_bbox, label, entry.get("bbox"), draft.size):
                draft.leave_out(source, f"{error}; only its box is used")
        else:
            if rings:
                shape = draft.add_outline(source, label, rings, box)
            else:
                shape = draft.add(LabelKind.OBJECTS, source, _check_bbox, label, entry.get("bbox"), draft.size)
        if self._known is not None and shape is not None and same[1] is not None:
            self._own[same] = shape
        return shape

    def _read_words(self, entry: dict[str, Any], draft: ImageDraft, source: str) -> None:
        words, box, problem = entry.get("text", entry.get("utf8_string")), _find_corners(entry), ""
        rings: list[Any] = []
        try:
            rings, problems = checks.split_rings(read_rings(entry, draft.size))
            problem = problems[0] if problems else ""
        except LabelError as error:
            problem = str(error)
        if not rings and box is not None:
            rings = [box_to_ring(box)]
        if not rings:
            draft.refuse_label(LabelKind.WORDS, source, problem or "it has neither a bbox nor a segmentation")
        else:
            added = draft.add(LabelKind.WORDS, source, checks.check_words, words, rings, draft.size)
            self._describe(entry, added, draft, source)
            if added and problem:
                draft.leave_out(source, f"{problem}; only the rest is used")
        draft.leave_out_class(source, self._categories.get(to_key(entry.get("category_id"))))

    def _describe(self, entry: dict[str, Any], added: Annotation | None, draft: ImageDraft, source: str) -> None:
        """Gives an annotation its attributes, and records what else it has."""
        points = entry.get("keypoints")
        if entry.get("num_keypoints") or (isinstance(points, list) and any(points)):
            self.builder.note_once(self.name, "keypoints are not used; boxes and outlines are")
        attributes = entry.get("attributes")
        if isinstance(attributes, dict):
            if is_set(attributes.get(_CVAT)):
                self.builder.note_once(self.name, f"the attribute {_CVAT!r} is not used")
            own = {name: value for name, value in attributes.items() if name not in KNOWN_ATTRIBUTES}
            draft.describe(source, added, own)


def _find_kind(entry: dict[str, Any]) -> LabelKind:
    if "caption" in entry:
        return LabelKind.CAPTIONS
    return LabelKind.OBJECTS if entry.get("text", entry.get("utf8_string")) is None else LabelKind.WORDS


def _is_mask(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("segmentation"), dict)


def is_set(value: Any) -> bool:
    """Returns whether a flag is set: 1, 1.0, true or one of them as text."""
    return value in (1, "1", "1.0") or str(value).lower() == "true"


def _is_same_object(one: Box | Polygon, label: Any, box: tuple[float, ...]) -> bool:
    near = all(abs(a - b) <= _SAME_BOX for a, b in zip(bounding_box(one), box, strict=True))
    return near and isinstance(label, str) and one.label == " ".join(label.split())


def _find_rotation(entry: dict[str, Any]) -> float:
    """Returns the degrees by which CVAT turned a box around its center."""
    attributes = entry.get("attributes")
    value = attributes.get("rotation") if isinstance(attributes, dict) and _CVAT in attributes else None
    return checks.check_number(value) % 360 if value else 0.0


def read_rings(entry: dict[str, Any], size: Size) -> list[Any]:
    """Returns the rings of a segmentation, unchecked. It may also be one ring, flat or as points."""
    rings = entry.get("segmentation") or []
    if isinstance(rings, dict):
        return list(masks.decode_coco_mask(rings, size))
    if not isinstance(rings, list):
        raise LabelError("its segmentation is neither a list of rings nor run lengths")
    rings = [ring for ring in rings if ring != []]
    if _is_flat(rings):
        return [rings]
    if len(rings) > 2 and all(_is_point(ring) for ring in rings):
        return [[value for point in rings for value in point]]
    return [_flatten(ring) for ring in rings]


def _is_flat(rings: Any) -> bool:
    return isinstance(rings, list) and bool(rings) and all(isinstance(value, (int, float, str)) for value in rings)


def _flatten(ring: Any) -> Any:
    if isinstance(ring, list) and ring and all(map(_is_point, ring)):
        return [value for point in ring for value in point]
    return ring


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and not any(isinstance(each, list | dict) for each in value)


def _find_corners(entry: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Returns x1, y1, x2, y2 of the `bbox`, which is x, y, width, height; None if it is not a box with an area."""
    try:
        x, y, width, height = checks.check_numbers(entry.get("bbox"), 4)
    except LabelError:
        return None
    return (x, y, x + width, y + height) if min(width, height) >= checks.MIN_SIDE else None


def _check_bbox(label: Any, bbox: Any, size: Size) -> Box:
    """Returns the box of a `bbox`. Raises LabelError."""
    x, y, width, height = numbers = checks.check_numbers(bbox, 4)
    checks.check_sides(numbers, "x, y, width, height", width, height)
    return checks.check_box(label, (x, y, x + width, y + height), size)


def _is_bbox(rings: list[Any], box: tuple[float, float, float, float], entry: dict[str, Any]) -> bool:
    """Returns whether the one ring repeats the bbox, as tools without masks write it: a list in the list of rings."""
    (ring,) = rings
    if not isinstance(ring, list) or len(ring) != 8 or _is_flat(entry.get("segmentation")):
        return False
    try:
        pairs = zip(checks.check_numbers(ring, 8), box_to_ring(box), strict=True)
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
    if not draft.add_sample(source, Sample(TASKS["<REGION_TO_DESCRIPTION>"], (Text(label=text),), region=region)):
        return
    if text not in FILLER_PHRASES:  # `him` can be segmented, but not grounded
        box = Box(label=text, box=region)
        draft.add_sample(source, Sample(TASKS["<CAPTION_TO_PHRASE_GROUNDING>"], (box,), text=text))
    if isinstance(shape, Polygon):
        outline = Polygon(polygons=simplify_for_answer(shape, draft.size))
        draft.add_sample(source, Sample(TASKS["<REFERRING_EXPRESSION_SEGMENTATION>"], (outline,), text=text))


def _select_dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []
