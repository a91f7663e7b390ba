"""A dataset from a path: what it is told apart by looking."""

from pathlib import Path
from typing import Any

from labels.dataset import Dataset, DatasetError
from labels.formats import coco, cvat, huggingface, jsonl, label_studio, labelme, voc, yolo
from labels.reading import documents

FORMATS = (
    "COCO (a .json file with images and annotations)",
    "YOLO (a folder with data.yaml)",
    "Pascal VOC (a folder with Annotations and JPEGImages)",
    "Label Studio (its JSON export)",
    "LabelMe (JSON files beside the pictures)",
    "CVAT for images 1.1 (annotations.xml)",
    "JSON lines (florist's export, or image, prefix and suffix)",
    "Hugging Face datasets (a folder with metadata.jsonl, Parquet or Arrow files)",
)


def open_dataset(path: str | Path) -> Dataset:
    """The dataset that lies at `path`, a folder or a file. What of it cannot be used is in its `unusable`; pictures are
    measured, not decoded (`verification.keep_readable` does). Raises DatasetError where it is none that is known, and where
    nothing of it can be used."""
    path = Path(path)
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except (OSError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} cannot be read: {error}") from error
    raise DatasetError(f"there is no dataset {str(path)!r}: no such file or folder")


def _file(path: Path) -> Dataset:
    suffix = path.suffix.lower()
    if suffix in jsonl.SUFFIXES:
        return _lines(path, [path])
    if suffix == ".json":
        return _json(path, [path])
    if suffix == ".xml" and (dataset := _xml([path])):
        return dataset
    if suffix in huggingface.TABLES:
        return huggingface.read_tables(path, [path])
    if described := yolo.find(path):
        return yolo.read(path.parent, described)
    raise _unknown(path)


def _folder(path: Path) -> Dataset:
    if described := yolo.find(path):
        return yolo.read(path, described)
    if (path / voc.FOLDER).is_dir():
        return voc.read(path)
    if dataset := _xml(sorted(path.glob("*.xml"))):
        return dataset
    if metadata := huggingface.metadata_in(path):
        return _lines(path, metadata)
    if tables := huggingface.tables_in(path):
        return huggingface.read_tables(path, tables)
    for folders in ("", "*/"):
        if lines := [file for suffix in jsonl.SUFFIXES for file in sorted(path.glob(f"{folders}*{suffix}"))]:
            if len({file.parent for file in lines}) < len(lines):
                raise _several(path, lines)
            return _lines(path, lines)
    if found := [*sorted(path.glob("*.json")), *sorted(path.glob("*/*.json"))]:
        return _json(path, found)
    raise _unknown(path)


def _lines(path: Path, files: list[Path]) -> Dataset:
    """metadata.jsonl, or another file like it, is of a Hugging Face folder; others are florist's or of prompts."""
    first = next((row for _, row, _ in documents.lines(files[0]) if isinstance(row, dict)), {})
    if "file_name" in first and not ({"prefix", "suffix"} <= set(first)):
        return huggingface.read_metadata(path, files)
    return jsonl.read(path, files)


def _xml(files: list[Path]) -> Dataset | None:
    """The dataset that is in the first XML file that is one's."""
    for file in files:
        try:
            root = documents.load_xml(file)
        except DatasetError:
            if len(files) == 1:
                raise
            continue
        if voc.is_voc(root):
            return voc.read(file.parent)
        if cvat.is_cvat(root):
            return cvat.read(file, root)
    return None


def _json(path: Path, files: list[Path]) -> Dataset:
    """The one dataset that is in JSON files, of which others may be something else."""
    found: list[tuple[Path, Any]] = []
    tasks: list[tuple[Path, Any]] = []
    for file in files:
        try:
            document = documents.load(file)
        except DatasetError:
            if len(files) == 1:
                raise
            continue
        if coco.is_coco(document):
            found.append((file, document))
        elif label_studio.is_labelstudio(document):
            tasks.append((file, document))
        elif labelme.is_labelme(document):
            return labelme.read(path)
    if len(tasks) > 1 or (tasks and found):
        raise _several(path, [file for file, _ in (*tasks, *found)])
    if tasks:
        return label_studio.read(*tasks[0])
    if not found:
        raise _unknown(path)
    # Files of one folder belong together where they are of one split: instances_val2017 and captions_val2017.
    for folder in {file.parent for file, _ in found}:
        beside = [file for file, _ in found if file.parent == folder]
        if len({file.stem.rpartition("_")[2] for file in beside}) > 1:
            raise _several(path, beside)
    return coco.read(path, found)


def _several(path: Path, files: list[Path]) -> DatasetError:
    return DatasetError(f"{path} holds several datasets; name one of them: {', '.join(map(str, files))}")


def _unknown(path: Path) -> DatasetError:
    return DatasetError(f"{path} is no dataset of a kind that is known:\n" + "\n".join(f"  {name}" for name in FORMATS))
