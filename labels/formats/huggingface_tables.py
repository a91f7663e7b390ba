"""Rows and images of Hugging Face datasets in Parquet and Arrow files."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from PIL import Image

from labels.dataset import DatasetError
from labels.extras import describe_install
from labels.image_files import EncodedImage, ImageBytes
from labels.image_folders import ImageFolders
from labels.image_resolver import FoundImage, ImageResolver
from labels.reading.dataset_builder import DatasetBuilder
from labels.reading.dataset_source import DatasetSource

_SUFFIXES = (".parquet", ".arrow")
_IMAGE_COLUMNS = ("image", "img", "picture", "photo")
_MAX_PARQUET = 4 * 1024**3  # bytes: images of Parquet files are kept in memory

ClassNames = Sequence[str]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ArrowImage:
    """An image in a row of an Arrow file, which is mapped into memory."""

    path: Path
    column: str
    row: int

    def stream(self) -> IO[bytes]:
        return ImageBytes(self._read()).stream()

    def __call__(self) -> Image.Image:
        return ImageBytes(self._read())()

    def _read(self) -> bytes:
        value = _open_arrow(self.path).column(self.column)[self.row].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise FileNotFoundError(f"row {self.row} of {self.path} contains no image")
        return data


def find_tables(path: Path) -> list[Path]:
    """Returns the Parquet files of a folder, or else its Arrow files, without the caches of `datasets`."""
    if path.is_file():
        return [path] if path.suffix in _SUFFIXES else []
    for suffix in _SUFFIXES:
        if found := sorted(file for file in path.rglob(f"*{suffix}") if not file.name.startswith((".", "cache-"))):
            return found
    return []


def iter_rows(
    source: DatasetSource, files: Sequence[Path], builder: DatasetBuilder
) -> Iterator[tuple[Row, str, str, EncodedImage | FoundImage, ClassNames]]:
    """Yields each row with its image's name, its source, the image and the class names.

    Images that are files have the name of the file; names of others begin with the name of the table, or with its path
    if tables of several folders have one name. Rows without an image are refused in `builder`. Raises DatasetError.
    """
    root = source.path
    try:
        import pyarrow
    except ImportError as error:
        raise DatasetError(f"{root} needs the package pyarrow: {describe_install('jobs-datasets')}") from error
    size = sum(file.stat().st_size for file in files if file.suffix == ".parquet")
    if size > _MAX_PARQUET:
        raise DatasetError(
            f"{root} has {size / 1024**3:.0f} GB of Parquet, whose images would be kept in memory; convert it with "
            "`datasets`: load_dataset('parquet', …).save_to_disk(…), and name that folder"
        )
    are_unique = len({file.stem for file in files}) == len(files)
    for file in files:
        name = file.stem if are_unique else file.relative_to(root).with_suffix("").as_posix()
        folders = source.resolver.layout.list_folders(file)
        try:
            for number, (row, names) in enumerate(_iter_table(file)):
                where = f"{file.name if are_unique else file.relative_to(root).as_posix()}: row {number}"
                try:
                    image = _find_row_image(row, file, number, source.resolver, folders)
                except OSError as error:
                    builder.refuse(where, str(error))
                    continue
                own = f"{name}/{number:06}"
                if isinstance(image, FoundImage):  # as in a metadata.parquet
                    base = source.resolver.root
                    is_below = image.path.is_relative_to(base)
                    own = image.path.relative_to(base).as_posix() if is_below else image.path.name
                    image = replace(image, name=own)
                yield row, own, where, image, names
        except (pyarrow.ArrowException, OSError) as error:
            raise DatasetError(f"{file} cannot be read: {str(error)[:200]}") from error


def find_class_names(feature: Any) -> ClassNames:
    """Returns the names of the first class label in a feature of `datasets`, at any depth; empty if there is none."""
    if isinstance(feature, dict):
        names = feature.get("names")
        if isinstance(names, list):
            return [str(name) for name in names]
        if isinstance(names, dict):
            return [str(names[key]) for key in sorted(names, key=lambda key: int(key))]
    parts = feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else ()
    return next(filter(None, map(find_class_names, parts)), ())


def _iter_table(file: Path) -> Iterator[tuple[Row, ClassNames]]:
    """Yields the rows of a table. Images of Arrow files are not loaded."""
    if file.suffix == ".arrow":
        table = _open_arrow(file)
        column = _find_image_column(table.schema)
        names = _read_schema_names(table.schema)
        for batch in table.drop_columns([column] if column else []).to_batches(256):
            yield from ((row, names) for row in batch.to_pylist())
        return
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as parquet:
        names = _read_schema_names(parquet.schema_arrow)
        for batch in parquet.iter_batches(16):
            yield from ((row, names) for row in batch.to_pylist())


@lru_cache(64)
def _open_arrow(path: Path) -> Any:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        try:
            return pyarrow.ipc.open_stream(file).read_all()
        except pyarrow.ArrowInvalid:
            file.seek(0)
            return pyarrow.ipc.open_file(file).read_all()


def _find_image_column(schema: Any) -> str | None:
    """Returns the column with encoded images."""
    from pyarrow import types

    for field in schema:
        if types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return str(field.name)
    names = schema.names
    return next((n for n in _IMAGE_COLUMNS if n in names and types.is_binary(schema.field(n).type)), None)


def _find_row_image(
    row: Mapping[str, Any], file: Path, number: int, resolver: ImageResolver, folders: ImageFolders
) -> EncodedImage | FoundImage:
    if file.suffix == ".arrow" and (column := _find_image_column(_open_arrow(file).schema)):
        return ArrowImage(file, column, number)
    embedded = [value for value in row.values() if isinstance(value, dict) and {"bytes", "path"} & set(value)]
    for value in [*embedded, *(row[name] for name in (*_IMAGE_COLUMNS, "file_name") if name in row)]:
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, value)
        if isinstance(data, bytes):
            return ImageBytes(data)
        if isinstance(path, str):
            return resolver.find(path, folders)
    raise FileNotFoundError("its row contains no image; a column of images is called image")


def _read_schema_names(schema: Any) -> ClassNames:
    """Returns the class names in the features that `datasets` stores in a table; empty if there are none."""
    metadata: bytes = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(metadata).get("info", {}).get("features", {})
        return find_class_names(features.get("objects"))
    except (AttributeError, ValueError, TypeError, RecursionError):
        return ()
