"""What describes a YOLO dataset: data.yaml of Ultralytics, obj.data and obj.names of Darknet, classes.txt of others."""

import io
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from labels.dataset import DatasetError
from labels.image_suffixes import is_image_suffix
from labels.reading.documents import decode_text, parse_yaml, read_lines
from labels.split_names import normalize_split

CLASSES = "classes.txt"
_YAML = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_YAML_SUFFIXES = (".yaml", ".yml")
_DARKNET_LABELS = "_darknet.labels"  # of Roboflow
_SPLITS = ("train", "val", "test")
_DARKNET_SPLITS = (*_SPLITS, "valid")
# Keys of data.yaml that are no splits.
_SETTINGS = ("path", "names", "nc", "download", "roboflow", "kpt_shape", "flip_idx", "task", "channels", "yaml_file")
_OCTAL = re.compile(r"0[0-7]+")
_MAX_YAML = 1 << 20  # bytes of a file that is opened to see whether it is a description
_LIST_START = 1 << 16  # bytes of a file that are read to see whether it is a list
_LEVELS_ABOVE = 3  # of a part, such as train/images, below the description


@dataclass(frozen=True, slots=True)
class Description:
    """What a description says.

    Attributes:
        file: The description.
        names: Class names by number.
        splits: For each split its name, what the description says about it, and its folder or list of images, which may
            not exist.
        has_keypoints: Whether lines also have keypoints.
    """

    file: Path
    names: dict[float, Any]
    splits: Sequence[tuple[str, str, Path]] = field(default=())
    has_keypoints: bool = False


def find_descriptions(path: Path) -> list[Path]:
    """Returns the descriptions of a dataset, given its folder, a part of it, a list of images, or a description.

    Several folders of one dataset may have a description each. Raises DatasetError if one folder has several.
    """
    if path.is_file():
        if path.suffix in (*_YAML_SUFFIXES, ".data"):
            return [path]
        return _find_above(path) if path.suffix == ".txt" and _is_list(path) else []
    if found := _find_in(path):
        if len(found) > 1:
            raise DatasetError(f"{path} has several descriptions; name one of them: {', '.join(map(str, found))}")
        return found
    below = [found[0] for folder in _list_folders(path) if (found := _find_in(folder))]
    return below or (_find_above(path) if has_labels(path) else [])


def has_labels(folder: Path) -> bool:
    """Returns whether a folder has labels of images: in `labels`, in place of `images` in its path, or beside them."""
    folders = _list_folders(folder)
    if any(each.name.casefold() == "labels" for each in (*folders, *chain.from_iterable(map(_list_folders, folders)))):
        return True
    parts = folder.absolute().parts
    for at in range(len(parts) - 1, max(len(parts) - 1 - _LEVELS_ABOVE, 0), -1):
        if parts[at].casefold() == "images" and any(
            each.name.casefold() == "labels" and each.joinpath(*parts[at + 1 :]).is_dir()
            for each in _list_folders(Path(*parts[:at]))
        ):
            return True
    return any(_has_labels_beside(each) for each in (folder, *folders))


def read_description(file: Path) -> Description:
    """Returns the content of a description. Raises DatasetError."""
    try:
        text = decode_text(file.read_bytes())
        if file.suffix in _YAML_SUFFIXES:
            return _read_yaml(file, parse_yaml(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DatasetError(f"{file}:{line} is not YAML: {error.problem}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        kind = "YAML" if file.suffix in _YAML_SUFFIXES else "text"
        raise DatasetError(f"{file} is not {kind} that can be read: {error}") from error
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}") from error
    if file.suffix == ".data":
        return _read_darknet(file)
    names = [line.strip() for line in io.StringIO(text, newline=None)]
    return Description(file, dict(enumerate(names)), (("", ".", get_root(file)),))


def get_root(file: Path) -> Path:
    """Returns the folder of the dataset that a description is for."""
    return file.parent.parent if file.parent.name.casefold() == "labels" else file.parent


def _find_in(folder: Path) -> list[Path]:
    """Returns the descriptions in a folder that are equally good."""
    for name in _YAML:
        if (folder / name).is_file():
            return [folder / name]
    files = _list_files(folder, (*_YAML_SUFFIXES, ".data", ".names", ".labels", ".txt"))
    if described := [each for each in files if each.suffix in _YAML_SUFFIXES and _is_description(each)]:
        return described
    if darknet := [each for each in files if each.suffix == ".data" and _read_pairs(each).keys() & {"train", "valid"}]:
        return darknet
    named = [each for each in files if each.suffix == ".names" or each.name in (_DARKNET_LABELS, CLASSES)]
    labels = [each for each in _list_folders(folder) if each.name.casefold() == "labels"]
    named += [each / CLASSES for each in labels if (each / CLASSES).is_file()]
    return named[:1] if named and has_labels(folder) else []


def _find_above(path: Path) -> list[Path]:
    above = list(path.absolute().parents)[:_LEVELS_ABOVE]
    return next((found for folder in above if len(found := _find_in(folder)) == 1), [])


def _is_description(file: Path) -> bool:
    if file.stat().st_size > _MAX_YAML:
        return False
    try:
        content = parse_yaml(decode_text(file.read_bytes()))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "names" in content and bool({"train", "val"} & {*map(str, content)})


def _is_list(file: Path) -> bool:
    """Returns whether a text file begins with the path of an image."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_LIST_START)
    except OSError:
        return False
    first = next((line.strip() for line in decode_text(start, "replace").split("\n") if line.strip()), "")
    return is_image_suffix(first) is True


def _has_labels_beside(folder: Path) -> bool:
    texts = {each.stem for each in _list_files(folder, (".txt",))}
    if not texts:
        return False
    with os.scandir(folder) as entries:
        return any(is_image_suffix(each.name) and posixpath.splitext(each.name)[0] in texts for each in entries)


def _list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [each.name for each in entries if each.name.endswith(suffixes) and each.is_file()]
    except OSError:
        return []
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _list_folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / name for name in sorted(each.name for each in entries if each.is_dir()) if name[0] != "."]
    except OSError:
        return []


def _read_yaml(file: Path, content: Any) -> Description:
    names = content.get("names") if isinstance(content, dict) else None
    if not isinstance(names, list | dict):
        raise DatasetError(f"{file} is not a YOLO dataset: it has no `names`, the list of class names")
    numbered = dict[float, Any](enumerate(names)) if isinstance(names, list) else _number_names(file, names)
    root = file.parent / ("" if _is_null(content.get("path")) else str(content["path"]))
    known, others = list[tuple[str, str, Path]](), list[tuple[str, str, Path]]()
    for key, value in content.items():
        if str(key) not in _SETTINGS:
            is_known = normalize_split(str(key)) in _SPLITS
            for entry in _to_list(value):
                path = _resolve_split(entry, [root, file.parent])
                # CVAT writes splits with any name.
                if is_known or path.suffix == ".txt" or path.is_dir():
                    (known if is_known else others).append((str(key), entry, path))
    known.sort(key=lambda split: _SPLITS.index(normalize_split(split[0])))
    return Description(file, numbered, (*known, *others), "kpt_shape" in content)


def _number_names(file: Path, names: dict[Any, Any]) -> dict[float, Any]:
    """Returns class names by number. Raises DatasetError if the keys are no numbers."""
    numbered = dict[float, Any]()
    for key, name in names.items():
        if _OCTAL.fullmatch(key) and int(key, 8) != int(key):
            raise DatasetError(f"{file} has {key} in its `names`, which YAML takes for {int(key, 8)}: write no zeros")
        with suppress(ValueError, TypeError):
            numbered[float(key)] = name
    if names and not numbered:
        raise DatasetError(
            f"{file} has no numbers in its `names`, but {next(iter(names))!r}: it needs 0: name, 1: name …"
        )
    return numbered


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.casefold() in ("", "~", "null"))


def _read_darknet(file: Path) -> Description:
    pairs = _read_pairs(file)
    names_file = _resolve_split(pairs.get("names", "obj.names"), [file.parent])
    try:
        names = read_lines(names_file)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} names its classes in {names_file}, which cannot be read: {error}") from error
    splits = [(key, pairs[key], _resolve_split(pairs[key], [file.parent])) for key in _DARKNET_SPLITS if pairs.get(key)]
    others = [
        (key, value, path)
        for key, value in pairs.items()
        if key not in (*_DARKNET_SPLITS, "names", "classes", "backup")
        and (path := _resolve_split(value, [file.parent])).suffix == ".txt"
    ]
    return Description(file, dict(enumerate(names)), (*splits, *others))


def _read_pairs(file: Path) -> dict[str, str]:
    """Returns the lines `key = value` of a file; empty if it cannot be read."""
    try:
        lines = read_lines(file)
    except (OSError, UnicodeDecodeError):
        return {}
    return {key.strip(): value.strip() for key, found, value in (line.partition("=") for line in lines) if found}


def _to_list(entry: Any) -> list[str]:
    return [
        each for each in (entry if isinstance(entry, list) else [entry]) if isinstance(each, str) and not _is_null(each)
    ]


def _resolve_split(entry: str, roots: Sequence[Path]) -> Path:
    """Returns the path of a split: as it is, or else its last parts below the description.

    Roboflow writes `../train/images`, and notebooks write paths of their own machine.
    """
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for root in roots:
        for place in (root / entry, root / entry.replace("\\", "/")):
            if place.exists():
                return place
    for start in range(len(parts)):
        for root in reversed(roots):
            if (found := _find_ignoring_case(root, parts[start:])) is not None:
                return found
    return roots[0] / entry


def _find_ignoring_case(root: Path, parts: Sequence[str]) -> Path | None:
    path = root
    for part in parts:
        if (path / part).exists():
            path = path / part
            continue
        similar = list(_iter_similar(path, part))
        if len(similar) != 1:
            return None
        path = similar[0]
    return path


def _iter_similar(folder: Path, name: str) -> Iterator[Path]:
    try:
        yield from (each for each in folder.iterdir() if each.name.casefold() == name.casefold())
    except OSError:
        return
