"""YOLO, as Ultralytics reads it: data.yaml, and for each picture of images/ a file of the same name in labels/, with a
line for each thing; https://docs.ultralytics.com/datasets/. Or, as Label Studio exports it, classes.txt in place of
data.yaml. A line of a class and four numbers is a box, one with six or more a polygon.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from labels.dataset import Dataset, DatasetError
from labels.geometry import to_points, to_ring
from labels.image_files import SUFFIXES, ImageFile, list_images
from labels.label_kind import LabelKind
from labels.reading import checks
from labels.reading.builder import DatasetBuilder
from labels.reading.checks import LabelError, Size
from prompts.annotations import Box, Polygon

_SPLITS = ("train", "val", "test")
_CLASSES = "classes.txt"


def find(path: Path) -> Path | None:
    """The data.yaml (or classes.txt) of a dataset that lies in a folder, or of which it is a part (`valid`)."""
    if path.is_file():
        return path if path.suffix in (".yaml", ".yml") else None
    for folder in (path, *([path.parent, path.parent.parent] if _parts(path) else [])):
        for name in ("data.yaml", "data.yml", "dataset.yaml", _CLASSES):
            if (folder / name).is_file() and (folder != path or name != _CLASSES or _parts(path)):
                return folder / name
    return None


def read(path: Path, described: Path) -> Dataset:
    """The pictures at `path`, a dataset or a part of it, by what `described`, the data.yaml or classes.txt, says. All
    splits are read. Raises DatasetError."""
    builder = DatasetBuilder(path)
    names, folders, posed = _classes(described)
    if path.is_dir() and path.resolve() != described.parent.resolve():
        folders = [path]
    taken = set[Path]()
    for folder in folders:
        for picture in _pictures(folder):
            if picture in taken:
                continue  # validation on what is taught
            taken.add(picture)
            _read(picture, described.parent, names, posed, builder)
    if not taken:
        raise DatasetError(
            f"{described} names no folder with pictures: {', '.join(map(str, folders)) or 'none at all'}"
        )
    _list_orphans(taken, described.parent, builder)
    return builder.build()


def _parts(path: Path) -> bool:
    """Whether a folder is or holds YOLO's two."""
    return (path / "labels").is_dir() or (path.name == "images" and (path.parent / "labels").is_dir())


def _classes(described: Path) -> tuple[dict[float, Any], list[Path], bool]:
    """Names by number, the folders (or lists) of pictures, and whether lines also hold key points."""
    try:
        text = described.read_bytes().decode("utf-8-sig")
        if described.name == _CLASSES:
            return dict(enumerate(line.strip() for line in text.splitlines())), [described.parent], False
        said = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DatasetError(f"{described}:{line} is no YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise DatasetError(f"{described} is no YAML that can be read: {error}") from error
    except OSError as error:
        raise DatasetError(f"{described} cannot be read: {error.strerror}") from error
    names = said.get("names") if isinstance(said, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise DatasetError(f"{described} is no YOLO dataset: it has no `names`, a list of what the classes are called")
    entries = [entry for split in _SPLITS for entry in _listed(said.get(split))]
    root = described.parent / str(said.get("path") or "")
    return names, [_place(entry, root, described.parent) for entry in entries], "kpt_shape" in said


def _listed(entry: Any) -> list[str]:
    return [each for each in (entry if isinstance(entry, list) else [entry]) if isinstance(each, str) and each]


def _place(entry: str, root: Path, folder: Path) -> Path:
    """Where a split lies: below `path`, below the file's folder, or there without the `../` that Roboflow writes."""
    places = [root / entry, folder / entry, folder / entry.removeprefix("../")]
    return next((place for place in places if place.exists()), places[0])


def _pictures(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from (path.resolve() for path in list_images(place))
    elif place.suffix == ".txt" and place.is_file():
        for line in place.read_text(encoding="utf-8", errors="replace").splitlines():
            path = place.parent / line.strip()
            if path.suffix.lower() in SUFFIXES:
                yield path.resolve()


def _read(picture: Path, root: Path, names: dict[float, Any], posed: bool, builder: DatasetBuilder) -> None:
    name = _relative(picture, root)
    labels = _labels_of(picture)
    draft = builder.add_image(name, _relative(labels, root), ImageFile(picture))
    if draft is None or not labels.is_file():
        return  # without a file there is nothing in it
    try:
        lines = labels.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        draft.refuse(LabelKind.OBJECTS, draft.source, f"it is no text that can be read: {error}")
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            draft.add(LabelKind.OBJECTS, f"{draft.source}:{number}", _shape, line.split(), names, posed, draft.size)


def _shape(parts: list[str], names: dict[float, Any], posed: bool, size: Size) -> Box | Polygon:
    number = checks.check_number(parts[0])
    if number not in names:
        raise LabelError(f"its class {parts[0]} has no name")
    name = names[number]
    values = [checks.check_number(part) for part in parts[1:]]
    if len(values) in (4, 5) or (posed and len(values) > 5):  # the fifth is a score
        x, y, width, height = values[:4]
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        return checks.check_box(name, [v * size[i % 2] for i, v in enumerate(box)], size)
    if len(values) < 6 or len(values) % 2:
        raise LabelError(f"it has {len(values)} numbers after the class; a box has 4, a polygon 6, 8, 10 …")
    return checks.check_polygon(name, _parted([v * size[i % 2] for i, v in enumerate(values)]), size)


def _parted(ring: list[float]) -> list[list[float]]:
    """The rings of a line: florist joins several by bridges without width, from the first one's first corner around
    another and back."""
    corners = to_points(ring)
    start = corners[0]
    at = [i for i, corner in enumerate(corners) if corner == start]
    loops = [corners[i + 1 : j] for i, j in zip(at[1:], [*at[2:], len(corners)], strict=True)] if len(at) > 1 else []
    if not loops or any(len(loop) < 4 or loop[0] != loop[-1] for loop in loops) or at[1] < 3:
        return [ring]
    return [to_ring(corners[: at[1]]), *(to_ring(loop[:-1]) for loop in loops)]


def _labels_of(picture: Path) -> Path:
    """The last `images` of the path is `labels`."""
    parts = list(picture.parts)
    at = next((i for i in range(len(parts) - 2, -1, -1) if parts[i] == "images"), None)
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def _list_orphans(taken: set[Path], root: Path, builder: DatasetBuilder) -> None:
    """Files in `labels` whose pictures are missing."""
    labelled = {_labels_of(picture) for picture in taken}
    for folder in sorted({labels.parent for labels in labelled if "labels" in labels.parts}):
        for path in sorted(folder.glob("*.txt")):
            if path not in labelled and path.name != _CLASSES:
                builder.refuse(_relative(path, root), "there is no picture that it labels")


def _relative(path: Path, root: Path) -> str:
    root = root.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
