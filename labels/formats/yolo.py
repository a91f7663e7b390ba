"""YOLO, as Ultralytics reads it; https://docs.ultralytics.com/datasets/.

data.yaml, and for each image in images/ a file with the same name in labels/. It has a line for each object: the number
of its class, and fractions of the image's width and height. Four fractions are a box, six or more a polygon. Label
Studio exports classes.txt instead of data.yaml. The writers use images/train/ and labels/train/, and leave out scores.
"""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import yaml

from labels.dataset import Dataset, DatasetError
from labels.geometry import Shape, to_points, to_ring, to_rings
from labels.image_files import SUFFIXES, ImageFile, list_images
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.reading import checks
from labels.reading.checks import LabelError, Size
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource
from labels.writing.categories import CategoryIds, describe_kind, get_category
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_names import replace_suffix
from prompts.annotations import Box, Polygon, Quad

_SPLITS = ("train", "val", "test")
_CLASSES = "classes.txt"
_UNREAD_SUFFIXES = (".gif", ".ppm", ".pgm", ".jpe", ".jfif")
_HEADER = "# There is no validation split: split images/ and labels/ before you trust a metric.\n"


def recognize(source: DatasetSource) -> bool:
    """Returns whether the folder has a data.yaml or classes.txt, or is a part of a dataset that has one."""
    return _find_description(source.path) is not None


def read(source: DatasetSource) -> Dataset:
    """Returns the images of the source: a dataset with all its splits, or a part of a dataset.

    Raises DatasetError.
    """
    description = _find_description(source.path)
    assert description is not None
    builder = DatasetBuilder(source.folder)
    names, folders, has_keypoints = _read_description(description)
    if source.path.is_dir() and source.path.resolve() != description.parent.resolve():
        folders = [source.path]
    seen = set[Path]()
    for folder in folders:
        for image in _iter_images(folder):
            if image in seen:
                continue  # an image of several splits
            seen.add(image)
            _read_image(image, description.parent, names, has_keypoints, builder)
    if not seen:
        places = ", ".join(dict.fromkeys(map(str, folders))) or "no folder at all"
        raise DatasetError(f"{description} names no folder with images: {places}")
    _refuse_orphans(seen, description.parent, builder)
    return builder.build()


def _find_description(path: Path) -> Path | None:
    """Returns the data.yaml (or classes.txt) of a dataset, given its folder or a part of it; None if there is none."""
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    for folder in (path, *([path.parent, path.parent.parent] if _has_labels(path) else [])):
        for name in ("data.yaml", "data.yml", "dataset.yaml", _CLASSES):
            if (folder / name).is_file() and (folder != path or name != _CLASSES or _has_labels(path)):
                return folder / name
    return None


def _has_labels(path: Path) -> bool:
    """Returns whether a folder has YOLO's `labels` folder, or is its `images` folder."""
    return (path / "labels").is_dir() or (path.name == "images" and (path.parent / "labels").is_dir())


def _read_description(description: Path) -> tuple[dict[float, Any], list[Path], bool]:
    """Returns class names by number, the folders (or lists) of images, and whether lines also have keypoints.

    Raises DatasetError.
    """
    try:
        text = description.read_bytes().decode("utf-8-sig")
        if description.name == _CLASSES:
            return dict(enumerate(line.strip() for line in text.splitlines())), [description.parent], False
        content = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DatasetError(f"{description}:{line} is not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DatasetError(f"{description} is not YAML that can be read: {error}") from error
    except OSError as error:
        raise DatasetError(f"{description} cannot be read: {error.strerror}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise DatasetError(f"{description} is not a YOLO dataset: it has no `names`, the list of class names")
    entries = [entry for split in _SPLITS for entry in _to_list(content.get(split))]
    root = description.parent / str(content.get("path") or "")
    return names, [_resolve_split(entry, root, description.parent) for entry in entries], "kpt_shape" in content


def _to_list(entry: Any) -> list[str]:
    return [each for each in (entry if isinstance(entry, list) else [entry]) if isinstance(each, str) and each]


def _resolve_split(entry: str, root: Path, folder: Path) -> Path:
    """Returns the path of a split: relative to `path`, to the file's folder, or to it without Roboflow's `../`."""
    places = [root / entry, folder / entry, folder / entry.removeprefix("../")]
    return next((place for place in places if place.exists()), places[0])


def _iter_images(split: Path) -> Iterator[Path]:
    if split.is_dir():
        yield from (path.resolve() for path in list_images(split))
    elif split.suffix == ".txt" and split.is_file():
        for line in split.read_text(encoding="utf-8", errors="replace").splitlines():
            path = split.parent / line.strip()
            if path.suffix.lower() in SUFFIXES:
                yield path.resolve()


def _read_image(image: Path, root: Path, names: dict[float, Any], has_keypoints: bool, builder: DatasetBuilder) -> None:
    labels = _to_labels_path(image)
    draft = builder.add_image(_to_relative_name(image, root), _to_relative_name(labels, root), ImageFile(image))
    if draft is None or not labels.is_file():
        return  # an image without a labels file shows no object
    try:
        lines = labels.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        draft.refuse_label(LabelKind.OBJECTS, draft.source, f"it is not text that can be read: {error}")
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{draft.source}:{number}"
            draft.add(LabelKind.OBJECTS, where, _read_shape, line.split(), names, has_keypoints, draft.size)


def _read_shape(parts: list[str], names: dict[float, Any], has_keypoints: bool, size: Size) -> Box | Polygon:
    number = checks.check_number(parts[0])
    if number not in names:
        raise LabelError(f"its class {parts[0]} has no name")
    name = names[number]
    values = [checks.check_number(part) for part in parts[1:]]
    if len(values) in (4, 5) or (has_keypoints and len(values) > 5):  # the fifth is a score
        x, y, width, height = values[:4]
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        return checks.check_box(name, [v * size[i % 2] for i, v in enumerate(box)], size)
    if len(values) < 6 or len(values) % 2:
        raise LabelError(f"it has {len(values)} numbers after the class; a box has 4, a polygon 6, 8, 10 …")
    return checks.check_polygon(name, _split_rings([v * size[i % 2] for i, v in enumerate(values)]), size)


def _split_rings(ring: list[float]) -> list[list[float]]:
    """Returns the rings of one line.

    The writer joins several rings by bridges without width, from the first corner of the first ring around another ring
    and back.
    """
    points = to_points(ring)
    start = points[0]
    at = [i for i, point in enumerate(points) if point == start]
    loops = [points[i + 1 : j] for i, j in zip(at[1:], [*at[2:], len(points)], strict=True)] if len(at) > 1 else []
    if not loops or any(len(loop) < 4 or loop[0] != loop[-1] for loop in loops) or at[1] < 3:
        return [ring]
    return [to_ring(points[: at[1]]), *(to_ring(loop[:-1]) for loop in loops)]


def _to_labels_path(image: Path) -> Path:
    """Returns the labels file of an image: the last `images` of its path becomes `labels`."""
    parts = list(image.parts)
    at = next((i for i in range(len(parts) - 2, -1, -1) if parts[i] == "images"), None)
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def _refuse_orphans(seen: set[Path], root: Path, builder: DatasetBuilder) -> None:
    """Records files in `labels` whose images are missing."""
    known = {_to_labels_path(image) for image in seen}
    for folder in sorted({labels.parent for labels in known if "labels" in labels.parts}):
        for path in sorted(folder.glob("*.txt")):
            if path not in known and path.name != _CLASSES:
                builder.refuse(_to_relative_name(path, root), "its image is missing")


def _to_relative_name(path: Path, root: Path) -> str:
    root = root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


class _YoloWriter(DatasetWriter):
    """data.yaml, images/train/ and labels/train/ with one file for each image."""

    images_folder: ClassVar[str] = "images/train"
    sidecars: ClassVar[tuple[str, str] | None] = ("labels/train", ".txt")
    shapes: ClassVar[tuple[type[Shape], ...]]

    def __init__(self, folder: ExportFolder, report: ExportReport, *, has_copies: bool) -> None:
        super().__init__(folder, report, has_copies=has_copies)
        self._categories = CategoryIds()

    @classmethod
    def get_label_path(cls, name: str) -> str:
        """Returns the path by Ultralytics' rule: the last `/images/` becomes `/labels/`, also one in the name."""
        path = "/labels/".join(f"/{cls.images_folder}/{name}".rsplit("/images/", 1)).removeprefix("/")
        return replace_suffix(path, ".txt")

    def list_doubts(self, name: str) -> list[str]:
        doubts = ["images of a type that Ultralytics does not read"] if name.lower().endswith(_UNREAD_SUFFIXES) else []
        return doubts + ["images whose labels are beside their folder `images`"] * ("/images/" in f"/{name}")

    def add(self, image: LabeledImage, name: str) -> int:
        lines = []
        for annotation in image.annotations:
            if not isinstance(annotation, self.shapes):
                self.leave_out(describe_kind(annotation), image, annotation)
                continue
            if annotation.score is not None:
                self.leave_out("scores", image, annotation)
            if isinstance(annotation, Quad):
                self.leave_out("texts of words", image, annotation)
            values = self._to_fractions(annotation, image.width, image.height)
            numbers = " ".join(f"{min(max(v, 0.0), 1.0):.6f}" for v in values)
            lines.append(f"{self._categories.get_id(get_category(annotation))} {numbers}\n")
        self.write_sidecar(name, "".join(lines))
        return len(lines)

    def close(self) -> None:
        names = {number: name for name, number in self._categories.by_name.items()}
        data = {"train": "images/train", "val": "images/train", "names": names}
        self.folder.write("data.yaml", _HEADER + yaml.safe_dump(data, allow_unicode=True, sort_keys=False, width=1000))

    @abstractmethod
    def _to_fractions(self, shape: Shape, width: int, height: int) -> list[float]: ...


class YoloDetectWriter(_YoloWriter):
    """Writes boxes, but not the bounds of polygons: objects with a box and a polygon would appear twice."""

    shapes = (Box,)

    def _to_fractions(self, shape: Shape, width: int, height: int) -> list[float]:
        assert isinstance(shape, Box)
        x1, y1, x2, y2 = shape.box
        return [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]


class YoloSegmentWriter(_YoloWriter):
    """Writes polygons and quads. A line has one ring, so several rings are joined by bridges without width."""

    shapes = (Polygon, Quad)

    def _to_fractions(self, shape: Shape, width: int, height: int) -> list[float]:
        first, *others = to_rings(shape)
        ring = list(first)
        for other in others:
            # From the first corner of the first ring to the other, around it, and back.
            ring += [*first[:2], *other, *other[:2]]
        return [v / (height if i % 2 else width) for i, v in enumerate(ring)]
