"""A dataset from a path: what it is told apart by looking."""

from pathlib import Path
from typing import Any

from finetune.datasets import coco, documents, jsonl
from finetune.datasets.example import Dataset, DatasetError

FORMATS = "COCO (.json), JSON lines (florist's; image, prefix, suffix)"


def open_dataset(path: str | Path) -> Dataset:
    """The dataset that lies at `path`, a folder or a file. What of it cannot be used is in `unusable`. Raises
    DatasetError where it is none that is known, and where nothing of it can be used."""
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error
    raise DatasetError(f"there is no dataset {path}: no such file or folder")


def _file(path: Path) -> Dataset:
    suffix = path.suffix.lower()
    if suffix in jsonl.SUFFIXES:
        return jsonl.read(path)
    if suffix == ".json":
        return _json(path.parent, [path], named=path)
    raise _unknown(path)


def _folder(path: Path) -> Dataset:
    lines = [file for suffix in jsonl.SUFFIXES for file in sorted(path.glob(f"*{suffix}"))]
    if len(lines) == 1:
        return jsonl.read(lines[0])
    if lines:
        raise _several(path, lines)
    return _json(path, [*sorted(path.glob("*.json")), *sorted(path.glob("*/*.json"))], named=path)


def _json(root: Path, files: list[Path], named: Path) -> Dataset:
    """The one dataset that is in JSON files."""
    found: list[tuple[Path, Any]] = []
    for file in files:
        document = documents.load(file)
        if coco.is_coco(document):
            found.append((file, document))
    if not found:
        raise _unknown(named)
    # Files of one folder belong together where they are of one split: instances_val2017 and captions_val2017.
    for folder in {file.parent for file, _ in found}:
        beside = [file for file, _ in found if file.parent == folder]
        if len({file.stem.rpartition("_")[2] for file in beside}) > 1:
            raise _several(named, beside)
    return coco.read(named, found)


def _several(path: Path, files: list[Path]) -> DatasetError:
    return DatasetError(f"{path} holds several datasets; name one of them: {', '.join(map(str, files))}")


def _unknown(path: Path) -> DatasetError:
    return DatasetError(f"{path} is no dataset of a kind that is known: {FORMATS}")
