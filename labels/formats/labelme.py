"""LabelMe: a JSON file beside each picture; https://github.com/wkentaro/labelme. A quadrangle called `text` is words,
which stand in its description."""

import base64
import binascii
from pathlib import Path
from typing import Any

from labels.dataset import Dataset, DatasetError
from labels.geometry import to_ring
from labels.image_files import EncodedImage, ImageBytes, ImageFile, find_image
from labels.label_kind import LabelKind
from labels.reading import checks, documents
from labels.reading.builder import DatasetBuilder, ImageDraft
from labels.reading.checks import LabelError, Size
from prompts.annotations import Annotation

_WORDS = "text"


def is_labelme(document: Any) -> bool:
    """Whether a JSON document is a picture's of LabelMe."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document


def read(path: Path) -> Dataset:
    """The pictures and labels below a folder, or of one file. Raises DatasetError."""
    folder = path if path.is_dir() else path.parent
    builder = DatasetBuilder(path)
    for file in sorted(folder.rglob("*.json")) if path.is_dir() else [path]:
        source = file.relative_to(folder).as_posix()
        try:
            document = documents.load(file)
        except DatasetError as error:
            builder.refuse(source, str(error))
            continue
        if is_labelme(document):
            _read(document, file, folder, source, builder)
    return builder.build()


def _read(document: dict[str, Any], file: Path, folder: Path, source: str, builder: DatasetBuilder) -> None:
    try:
        name, opened = _picture(document, file)
    except OSError as error:
        builder.refuse(source, str(error))
        return
    size = checks.parse_size(document.get("imageWidth"), document.get("imageHeight"))
    draft = builder.add_image((file.parent / name).relative_to(folder).as_posix(), source, opened, size)
    if draft is None:
        return
    groups: dict[Any, list[Any]] = {}
    for position, shape in enumerate(document["shapes"]):
        group = shape.get("group_id") if isinstance(shape, dict) and shape.get("shape_type") == "polygon" else None
        # Rings of one thing are polygons of one group.
        key = (group, shape.get("label")) if isinstance(group, int | str) else position
        groups.setdefault(str(key), []).append((position, shape))
    for shapes in groups.values():
        _add([shape for _, shape in shapes], draft, f"{source}: shape {shapes[0][0]}")


def _picture(document: dict[str, Any], file: Path) -> tuple[str, EncodedImage]:
    """Name and picture: the file beside, else what is embedded."""
    said = document["imagePath"]
    name = said.replace("\\", "/").rpartition("/")[2] if isinstance(said, str) else ""
    try:
        return name, ImageFile(find_image(name, [file.parent]))
    except OSError:
        data = document.get("imageData")
        if not isinstance(data, str) or not data:
            raise
    try:
        return name or file.stem, ImageBytes(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError) as error:
        raise OSError(f"its imageData cannot be read: {error}") from error


def _add(shapes: list[Any], draft: ImageDraft, source: str) -> None:
    first = shapes[0]
    if not isinstance(first, dict):
        draft.refuse(LabelKind.OBJECTS, source, "it is no JSON object")
        return
    kind = first.get("shape_type", "polygon")
    words = str(first.get("description") or "").partition("\n")[0] if first.get("label") == _WORDS else ""
    if kind not in ("rectangle", "polygon"):
        draft.refuse(LabelKind.OBJECTS, source, f"a {kind} cannot be used; draw a rectangle or a polygon")
    else:
        draft.add(LabelKind.WORDS if words else LabelKind.OBJECTS, source, _shape, shapes, kind, words, draft.size)


def _shape(shapes: list[dict[str, Any]], kind: str, words: str, size: Size) -> Annotation:
    rings = [_ring(shape.get("points")) for shape in shapes]
    if kind == "polygon":
        return (
            checks.check_words(words, rings, size)
            if words
            else checks.check_polygon(shapes[0].get("label"), rings, size)
        )
    if len(rings[0]) != 4:
        raise LabelError(f"its rectangle has {len(rings[0]) // 2} corners, not two opposite ones")
    (x1, x2), (y1, y2) = sorted(rings[0][::2]), sorted(rings[0][1::2])  # it may be drawn from any corner
    return checks.check_box(shapes[0].get("label"), [x1, y1, x2, y2], size)


def _ring(pairs: Any) -> list[float]:
    if not isinstance(pairs, list) or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise LabelError("its points are no list of x and y")
    return to_ring((checks.check_number(x), checks.check_number(y)) for x, y in pairs)
