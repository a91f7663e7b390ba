"""LabelMe: a JSON file beside each image, or with the image in it; https://github.com/wkentaro/labelme.

X-AnyLabeling writes the same files. Its shapes of the types `rotation` and `quadrilateral` and its rectangles of four
corners are read, too, as are circles and masks. Points and lines are left out.

A shape with the label `text` is a word: its text is the first line of its description. The description of another
shape is that of its region. `attributes` are as X-AnyLabeling has them, and so are captions, the lines in the
description of the image. The writer also adds `score`, which LabelMe preserves, the flag `review`, and the reason for
it as an attribute.
"""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from labels.dataset import Dataset, DatasetError
from labels.formats.labelme_shapes import read_shapes
from labels.geometry import to_points, to_rings
from labels.image_files import ImageBytes
from labels.image_resolver import FoundImage, ImageResolver, is_respelled
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.reading import checks, documents
from labels.reading.checks import LabelError
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.writing.categories import DESCRIPTION, REVIEW, WORD_CATEGORY, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.image_options import ImagePlacement
from labels.writing.json_array import to_json_line
from prompts.annotations import Box, Quad, Text

_VERSION = "5.0.0"  # the first version that reads these files


def is_labelme(document: Any) -> bool:
    """Returns whether a JSON document describes one image of LabelMe."""
    return isinstance(document, dict) and isinstance(document.get("shapes"), list) and "imagePath" in document


def recognize(source: DatasetSource) -> bool:
    """Returns whether one of the JSON files is LabelMe's. If there are none, checks deeper folders."""
    has_json = False
    for _, document in source.iter_json():
        if is_labelme(document):
            return True
        has_json = True
    return not has_json and source.path.is_dir() and _has_labelme_below(source.path)


def _has_labelme_below(folder: Path) -> bool:
    for file in sorted(folder.glob("*/*/**/*.json")):
        with suppress(DatasetError):
            return is_labelme(documents.load_json(file))
    return False


def read(source: DatasetSource) -> Dataset:
    """Returns the images and labels below the folder, or of the one file. Raises DatasetError."""
    folder, path = source.folder, source.path
    builder = DatasetBuilder(path)
    for file in source.list_below("*.json") if path.is_dir() else [path]:
        where = file.relative_to(folder).as_posix()
        try:
            document = documents.load_json(file)
        except DatasetError as error:
            builder.refuse(where, str(error))
            continue
        if is_labelme(document):
            _read_image(document, file, source, where, builder)
        else:
            builder.refuse(where, "it is no JSON file of LabelMe")
    return builder.build()


def _read_image(
    document: dict[str, Any], file: Path, source: DatasetSource, where: str, builder: DatasetBuilder
) -> None:
    path = document["imagePath"] if isinstance(document["imagePath"], str) else ""
    size = checks.parse_size(document.get("imageWidth"), document.get("imageHeight"))
    try:
        found = _find_image(path, file, source.resolver, has_data=bool(document.get("imageData")))
        if found is not None and (other := _find_namesake(found, file, source.resolver)):
            reason = f"it may be about {found.path.name}, its imagePath, or about {other.path.name}, which has its name"
            builder.refuse_description(found.path, where, reason)
            return
        if found is not None:
            root = source.resolver.root
            name = found.path.relative_to(root).as_posix() if found.path.is_relative_to(root) else found.name
            draft = builder.add_found(replace(found, name=name), where, size)
        else:
            name = path.replace("\\", "/").rpartition("/")[2] or file.stem
            image = _decode_image(document.get("imageData"))
            draft = builder.add_image((file.parent / name).relative_to(source.folder).as_posix(), where, image, size)
    except OSError as error:
        builder.refuse(where, str(error))
        return
    if draft is None:
        return
    read_shapes(document, draft, where)


def _find_image(path: str, file: Path, resolver: ImageResolver, *, has_data: bool) -> FoundImage | None:
    """Returns the image with a path, or else beside the JSON file; None if the image is embedded. Raises OSError."""
    folders = resolver.layout.list_folders(file)
    if (exact := resolver.find_exact(path, folders)) is not None:
        return FoundImage(Path(os.path.normpath(exact)), exact.name, path if is_respelled(path, exact) else "")
    return None if has_data else resolver.find_partner(file, path, folders)


def _find_namesake(found: FoundImage, file: Path, resolver: ImageResolver) -> FoundImage | None:
    """Returns another image than the one that was found, with the name of the JSON file; None if there is none.

    Then the file may be a copy that has kept the path. Raises OSError.
    """
    if found.path.stem == file.stem:
        return None
    own = resolver.find_beside(Path(file.stem), resolver.layout.list_folders(file))
    return None if own is None or own.path.samefile(found.path) else own


def _decode_image(data: object) -> ImageBytes:
    """Returns an embedded image. Raises OSError."""
    try:
        return ImageBytes(checks.decode_base64(data))
    except LabelError as error:
        raise OSError(f"its imageData cannot be read: {error}") from error


class LabelMeWriter(DatasetWriter):
    """Images and their JSON files side by side."""

    images_folder: ClassVar[str] = "."
    reserved_attributes: ClassVar[frozenset[str]] = frozenset({REVIEW})
    default_placement: ClassVar[ImagePlacement] = ImagePlacement.COPY
    sidecars: ClassVar[tuple[str, str] | None] = (".", ".json")

    def add(self, image: LabeledImage, name: str) -> int:
        captions, shapes = list[str](), list[dict[str, Any]]()
        for group, traced in enumerate(image.traced_annotations, start=1):
            if isinstance(traced.annotation, Text):
                captions.append(" ".join(traced.annotation.label.split()))
                self.leave_out_details(traced)
            else:
                shapes += _to_shapes(self.select_attributes(traced), group)
        document: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": PurePosixPath(name if self.images.are_included else image.name).name,
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        if captions:
            document["description"] = "\n".join(captions)
        self.write_sidecar(name, to_json_line(document) + "\n")
        return len(image.annotations)


def _to_shapes(traced: TracedAnnotation, group: int) -> list[dict[str, Any]]:
    annotation = traced.annotation
    assert not isinstance(annotation, Text)
    if isinstance(annotation, Box):
        rings, kind = [list(annotation.box)], "rectangle"
    else:
        rings, kind = to_rings(annotation), "polygon"
    attributes = {**traced.attributes, **({REVIEW: traced.review} if traced.review else {})}
    if isinstance(annotation, Quad):
        description = " ".join(annotation.label.split())
    else:
        # An object of the class `text` has no description: it would be read as a word.
        description = "" if get_category(annotation) == WORD_CATEGORY else attributes.pop(DESCRIPTION, "")
    return [
        {
            "label": get_category(annotation),
            "points": [[round(x, 3), round(y, 3)] for x, y in to_points(ring)],
            # The rings of one object are shapes of one group.
            "group_id": group if len(rings) > 1 else None,
            "description": description,
            "shape_type": kind,
            "flags": {REVIEW: True} if traced.review else {},
        }
        | ({"attributes": attributes} if attributes else {})
        | ({} if annotation.score is None else {"score": round(annotation.score, 6)})
        for ring in rings
    ]
