"""Hugging Face datasets: a folder of pictures with metadata.jsonl (imagefolder), Parquet files, and what
`save_to_disk` writes; https://huggingface.co/docs/datasets/image_dataset.

`objects` is a list of them, or a list for each of their fields: `box` (x1, y1, x2, y2) or `bbox` (x, y, width, height),
`category` or `label`, and, as florist writes them, `kind`, `text` and `polygons`. Captions stand in `captions`,
`caption` or `text`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import yaml
from PIL import Image

from labels.dataset import Dataset, DatasetError
from labels.image_files import EncodedImage, ImageBytes, ImageFile, find_image
from labels.label_kind import LabelKind
from labels.reading import checks, documents
from labels.reading.builder import DatasetBuilder
from labels.reading.checks import LabelError, Size
from prompts.annotations import Annotation

METADATA = "metadata.jsonl"
TABLES = (".parquet", ".arrow")
_IMAGES = ("image", "img", "picture", "photo")
_NAMES = ("category", "categories", "label", "labels", "category_id")
_CAPTIONS = ("captions", "caption", "text")
_MOST = 4 * 1024**3  # bytes of Parquet whose pictures are kept in memory

Names = Sequence[str]


@dataclass(frozen=True, slots=True)
class ArrowPicture:
    """A picture in a row of an Arrow file, which is mapped into memory."""

    path: Path
    column: str
    row: int

    def stream(self) -> IO[bytes]:
        return ImageBytes(self._data()).stream()

    def __call__(self) -> Image.Image:
        return ImageBytes(self._data())()

    def _data(self) -> bytes:
        value = _arrow(self.path).column(self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise FileNotFoundError(f"row {self.row} of {self.path} holds no picture")
        return data


def metadata_in(folder: Path) -> list[Path]:
    """The metadata.jsonl of a folder, or of its splits."""
    return [file for pattern in (METADATA, f"*/{METADATA}") for file in sorted(folder.glob(pattern))]


def tables_in(path: Path) -> list[Path]:
    """The Parquet files of a folder, else its Arrow files; caches of `datasets` are none."""
    if path.is_file():
        return [path] if path.suffix in TABLES else []
    for suffix in TABLES:
        if found := sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith((".", "cache-"))):
            return found
    return []


def read_metadata(root: Path, files: Sequence[Path]) -> Dataset:
    """An imagefolder. Raises DatasetError."""
    builder = DatasetBuilder(root)
    names = _card_names(root / "README.md")
    for file in files:
        for number, row, wrong in documents.lines(file):
            source = f"{file.relative_to(root).as_posix() if root.is_dir() else file.name}:{number}"
            name = row.get("file_name") if isinstance(row, dict) else None
            if wrong or not isinstance(name, str):
                builder.refuse(source, wrong or "it has no file_name")
                continue
            try:
                opened = ImageFile(find_image(name, [file.parent]))
            except OSError as error:
                builder.refuse(source, str(error))
                continue
            prefix = "" if file.parent == root or root.is_file() else f"{file.parent.name}/"
            _add(builder, row, prefix + name, source, opened, names)
    return builder.build()


def read_tables(root: Path, files: Sequence[Path]) -> Dataset:
    """Parquet or Arrow files. Pictures of Parquet are kept in memory. Raises DatasetError."""
    try:
        import pyarrow
    except ImportError as error:
        raise DatasetError(f"{root} needs the package pyarrow: pip install 'florist[jobs-datasets]'") from error
    heavy = sum(file.stat().st_size for file in files if file.suffix == ".parquet")
    if heavy > _MOST:
        raise DatasetError(
            f"{root} holds {heavy / 1024**3:.0f} GB of Parquet, whose pictures are kept in memory; write it with "
            "`datasets`: load_dataset('parquet', …).save_to_disk(…), and name that folder"
        )
    builder = DatasetBuilder(root)
    for file in files:
        try:
            for number, (row, names) in enumerate(_rows(file)):
                source = f"{file.name}: row {number}"
                try:
                    opened = _picture(row, file, number)
                except OSError as error:
                    builder.refuse(source, str(error))
                    continue
                _add(builder, row, f"{file.stem}/{number:06}", source, opened, names)
        except (pyarrow.ArrowException, OSError) as error:
            raise DatasetError(f"{file} cannot be read: {str(error)[:200]}") from error
    return builder.build()


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], Names]]:
    """The rows of a table; pictures of Arrow stay where they are."""
    if file.suffix == ".arrow":
        table = _arrow(file)
        image = _image_column(table.schema)
        names = _schema_names(table.schema)
        for batch in table.drop_columns([image] if image else []).to_batches(256):
            yield from ((row, names) for row in batch.to_pylist())
        return
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as parquet:
        names = _schema_names(parquet.schema_arrow)
        for batch in parquet.iter_batches(16):
            yield from ((row, names) for row in batch.to_pylist())


@lru_cache(64)
def _arrow(path: Path) -> Any:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        try:
            return pyarrow.ipc.open_stream(file).read_all()
        except pyarrow.ArrowInvalid:
            file.seek(0)
            return pyarrow.ipc.open_file(file).read_all()


def _image_column(schema: Any) -> str | None:
    """The column that holds encoded pictures."""
    from pyarrow import types

    for field in schema:
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    return next((name for name in _IMAGES if name in schema.names and types.is_binary(schema.field(name).type)), None)


def _picture(row: Mapping[str, Any], file: Path, number: int) -> EncodedImage:
    if file.suffix == ".arrow" and (column := _image_column(_arrow(file).schema)):
        return ArrowPicture(file, column, number)
    embedded = [value for value in row.values() if isinstance(value, dict) and {"bytes", "path"} & set(value)]
    values = [*embedded, *(row[name] for name in (*_IMAGES, "file_name") if name in row)]
    for value in values:
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(data, bytes):
            return ImageBytes(data)
        if isinstance(path, str):
            return ImageFile(find_image(path, [file.parent]))
    raise FileNotFoundError("its row holds no picture; a column of them is called image")


def _add(
    builder: DatasetBuilder, row: Mapping[str, Any], name: str, source: str, opened: EncodedImage, names: Names
) -> None:
    draft = builder.add_image(name, source, opened, checks.parse_size(row.get("width"), row.get("height")))
    if draft is None:
        return
    objects = row.get("objects") or []
    if isinstance(objects, dict):
        objects = _transposed(objects)
    if not isinstance(objects, list):
        draft.refuse(LabelKind.OBJECTS, source, "its objects are neither a list nor a list for each of their fields")
        objects = []
    for position, thing in enumerate(objects):
        where = f"{source}, object {position}"
        if not isinstance(thing, dict):
            draft.refuse(LabelKind.OBJECTS, where, "it is no record of fields")
            continue
        words = isinstance(thing.get("text"), str) and thing.get("kind", "quad") == "quad"
        draft.add(LabelKind.WORDS if words else LabelKind.OBJECTS, where, _object, thing, words, names, draft.size)
    for caption in _captions(row):
        draft.add(LabelKind.CAPTIONS, source, checks.check_caption, caption)


def _transposed(fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A list for each field → a record for each thing; None where no field is a list."""
    lists = {key: values for key, values in fields.items() if isinstance(values, list)}
    if not lists:
        return None
    count = max(map(len, lists.values()), default=0)
    return [{key: values[i] for key, values in lists.items() if i < len(values)} for i in range(count)]


def _captions(row: Mapping[str, Any]) -> list[Any]:
    said: Any = next((row[name] for name in _CAPTIONS if row.get(name)), [])
    listed = said if isinstance(said, list) else [said]
    return [each.get("text") if isinstance(each, dict) else each for each in listed]


def _object(thing: Mapping[str, Any], words: bool, names: Names, size: Size) -> Annotation:
    rings = thing.get("polygons") or thing.get("segmentation") or []
    if not isinstance(rings, list):
        raise LabelError("its polygons are no list of rings")
    if "box" in thing:
        x1, y1, x2, y2 = checks.check_numbers(thing["box"], 4)
    elif "bbox" in thing:
        x, y, width, height = checks.check_numbers(thing["bbox"], 4)
        x1, y1, x2, y2 = x, y, x + width, y + height
    elif not rings:
        raise LabelError("it has no box, bbox or polygons")
    if words:
        return checks.check_words(thing["text"], rings or [[x1, y1, x2, y1, x2, y2, x1, y2]], size)
    name = next((thing[key] for key in _NAMES if key in thing), None)
    if isinstance(name, int) and not isinstance(name, bool):
        if not 0 <= name < len(names):
            raise LabelError(f"its category {name} has no name: the dataset's features name {len(names)}")
        name = names[name]
    return checks.check_polygon(name, rings, size) if rings else checks.check_box(name, [x1, y1, x2, y2], size)


def _schema_names(schema: Any) -> Names:
    """What the classes are called by the features that `datasets` keeps in a table."""
    said: bytes = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(said).get("info", {}).get("features", {})
        return _class_names(features.get("objects"))
    except (AttributeError, ValueError, TypeError, RecursionError):
        return ()


def _card_names(card: Path) -> Names:
    """And by those at the head of README.md."""
    try:
        _, head, _ = card.read_text(encoding="utf-8").split("---\n", 2)
        features = yaml.safe_load(head)["dataset_info"]["features"]
        return _class_names(next(each for each in features if each.get("name") == "objects"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError, yaml.YAMLError):
        return ()  # there need be none


def _class_names(said: Any) -> Names:
    """The names of the first class label in a feature, however deep."""
    if isinstance(said, dict):
        names = said.get("names")
        if isinstance(names, list):
            return [str(name) for name in names]
        if isinstance(names, dict):
            return [str(names[key]) for key in sorted(names, key=lambda key: int(key))]
    parts = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return next(filter(None, map(_class_names, parts)), ())
