"""CVAT XML 1.1 for images; https://docs.cvat.ai/docs/manual/advanced/xml_format/. Words that were read, and captions,
stand in an attribute called text."""

from pathlib import Path

from labels import masks
from labels.dataset import Dataset, DatasetError
from labels.geometry import box_to_ring, rotate_ring
from labels.image_files import ImageFile, find_image
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.builder import DatasetBuilder, ImageDraft
from labels.reading.checks import LabelError, Size
from labels.reading.documents import Element
from prompts.annotations import Box, Polygon, Quad

_WORDS = ("text", "transcription")


def is_cvat(root: Element) -> bool:
    """Whether an XML document is CVAT's."""
    return root.tag == "annotations" and bool(root.all("image", "track", "meta", "version"))


def read(path: Path, root: Element) -> Dataset:
    """The pictures and labels of a file; pictures are looked for beside it and in `images` there. Raises
    DatasetError."""
    if root.first("track") is not None:
        raise DatasetError(f"{path} labels a video; export the task as CVAT for images")
    builder = DatasetBuilder(path)
    folders = [path.parent, path.parent / "images"]
    for image in root.all("image"):
        source = f"{path.name}:{image.line}"
        name = image.attributes.get("name", "")
        size = [
            int(v) if v.isascii() and v.isdigit() and len(v) < 10 else 0
            for v in map(image.attributes.get, ("width", "height"))
            if v
        ]
        try:
            opened = ImageFile(find_image(name, folders))
        except OSError as error:
            builder.refuse(source, str(error))
            continue
        if draft := builder.add_image(name, source, opened, checks.parse_size(*size) if len(size) == 2 else None):
            _read(image, draft, path.name)
    return builder.build()


def _read(image: Element, draft: ImageDraft, file: str) -> None:
    groups: dict[tuple[str, str], list[Element]] = {}
    for element in image.children:
        source = f"{file}:{element.line}"
        group = element.attributes.get("group_id")
        match element.tag:
            case "tag":
                _caption(element, draft, source)
            case "polygon" if group and group != "0" and _words(element) is None:
                # Rings of one thing are polygons of one group.
                groups.setdefault((element.attributes.get("label", ""), group), []).append(element)
            case "box" | "polygon" | "mask":
                kind = LabelKind.OBJECTS if _words(element) is None else LabelKind.WORDS
                draft.add(kind, source, _shape, [element], draft.size)
            case _:
                draft.refuse(LabelKind.OBJECTS, source, f"a {element.tag} cannot be used; draw a box or a polygon")
    for elements in groups.values():
        draft.add(LabelKind.OBJECTS, f"{file}:{elements[0].line}", _shape, elements, draft.size)


def _caption(element: Element, draft: ImageDraft, source: str) -> None:
    words = _words(element)
    if words is None:
        draft.builder.refuse(source, "a tag without a text says nothing that can be taught")
    else:
        draft.add(LabelKind.CAPTIONS, source, checks.check_caption, words)


def _words(element: Element) -> str | None:
    return next(
        (child.text for child in element.all("attribute") if child.attributes.get("name") in _WORDS and child.text),
        None,
    )


def _shape(elements: list[Element], size: Size) -> Box | Polygon | Quad:
    first = elements[0]
    name, words = first.attributes.get("label"), _words(first)
    if first.tag == "box":
        x1, y1, x2, y2 = (checks.check_number(first.attributes.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
        angle = checks.check_number(first.attributes.get("rotation", "0"))
        if words is None and not angle:
            return checks.check_box(name, [x1, y1, x2, y2], size)
        rings = [rotate_ring(box_to_ring((x1, y1, x2, y2)), angle, ((x1 + x2) / 2, (y1 + y2) / 2))]
    elif first.tag == "mask":
        rings = masks.of_cvat(first.attributes, size)
    else:
        rings = [_points(element.attributes.get("points", "")) for element in elements]
    return checks.check_polygon(name, rings, size) if words is None else checks.check_words(words, rings, size)


def _points(said: str) -> list[float]:
    pairs = [pair.split(",") for pair in said.split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise LabelError(f"its points {said[:60]!r} are not x,y;x,y;…")
    return [checks.check_number(value.strip()) for pair in pairs for value in pair]
