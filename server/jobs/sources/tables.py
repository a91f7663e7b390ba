"""The images of Parquet and Arrow files, as Hugging Face datasets are stored on disks and in buckets."""

import bisect
import json
import posixpath
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error, to_image_error
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.reading import read_image
from server.jobs.sources.source import (
    MAX_FILE_BYTES,
    AccessCheck,
    ImageSource,
    Reserve,
    SourceError,
    SourceImageError,
    SourceImageFault,
    make_size_error,
)
from server.store.text import is_url, redact_address

SUFFIXES = (".parquet", ".arrow")
_BYTES_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")
_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}
_BATCH = 16  # rows read at once, whose images are in memory together
_READ_AHEAD = 64  # rows that may be skipped; for more, a new pass starts
_SKIPPED_BYTES = 64 * 1024 * 1024  # of skipped images that are kept, since they may be requested next


class _Table(Protocol):
    """One file of a table."""

    def iter_paths(self) -> Iterator[str | None]:
        """Yields the path that each row has for its image."""

    def iter_values(self, start: int) -> Iterator[Any]:
        """Yields the image column of the rows from `start` on."""


class TableSource(ImageSource):
    """The images of tables, one a row, in order.

    An image is named after its path in the table, below the table's name, or after its row number. Parquet is read
    forward: all rows in order need one pass, but going back to an earlier row reads its row group again.
    """

    def __init__(self, files: Sequence[tuple[str, str, int]], is_allowed: AccessCheck | None = None) -> None:
        """`files` are the name, the address and the size in bytes of each table."""
        self._addresses, self._is_allowed = [address for _, address, _ in files], is_allowed
        self._starts: list[int] = []  # position of each table's first row
        self._lock = threading.Lock()
        self._open: tuple[int, _Table] | None = None
        self._rows: Iterator[Any] | None = None  # of the open table, from `_next` on
        self._next = 0
        self._skipped: dict[int, Any] = {}
        listing = ImageListing()
        for number, (name, address, size) in enumerate(files):
            self._starts.append(len(listing.names))
            try:
                self._list(listing, number, name, size)
            except SourceError as error:
                raise SourceError(f"{redact_address(address)} {error}") from None
            except ImportError as error:
                raise SourceError(f"{name} needs the package pyarrow: pip install 'florist[jobs-datasets]'") from error
            except Exception as error:
                raise_source_error(address, error)
        super().__init__(listing)

    def close(self) -> None:
        self._open = self._rows = None
        self._skipped.clear()

    def _list(self, listing: ImageListing, number: int, name: str, size: int) -> None:
        table = self._open_table(number)
        suffix = _guess_suffix(next(table.iter_values(0), None))
        for row, path in enumerate(table.iter_paths()):
            path = posixpath.basename(path) if path and (path.startswith("/") or is_url(path)) else path
            # The sizes of images are in the column that is not read here, so changes are detected by the file's size.
            listing.add(f"{name}/{path or f'{row:08}{suffix}'}", size)

    def _open_table(self, number: int) -> _Table:
        if self._open is None or self._open[0] != number:
            address = self._addresses[number]
            table = _ArrowTable(address) if address.endswith(".arrow") else _ParquetTable(address)
            self._open, self._rows = (number, table), None
        return self._open[1]

    def _read(self, position: int, reserve: Reserve) -> bytes:
        try:
            with self._lock:
                number, value = self._read_value(position)
        except Exception as error:
            raise to_image_error(error) from error
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and path:
            folder = addresses.get_parent(self._addresses[number])
            return read_image(addresses.resolve_target(folder, path), self._is_allowed, reserve)
        if data is None:
            raise SourceImageError("its row has no image", SourceImageFault.MISSING)
        if len(data) > MAX_FILE_BYTES:
            raise make_size_error(len(data))
        reserve(len(data))
        return bytes(data)

    def _read_value(self, position: int) -> tuple[int, Any]:
        """Returns the number of the table, and the image column of its row."""
        number = bisect.bisect_right(self._starts, position) - 1
        if position in self._skipped:
            return number, self._skipped.pop(position)
        table, rows = self._open_table(number), self._rows
        if rows is None or not 0 <= position - self._next < _READ_AHEAD:
            rows, self._next = table.iter_values(position - self._starts[number]), position
        self._rows = None  # after an error in the middle, the next read starts a new pass
        for skipped in range(self._next, position):
            self._skipped[skipped] = next(rows)
        value = next(rows)
        self._rows, self._next = rows, position + 1
        while sum(map(_count_bytes, self._skipped.values())) > _SKIPPED_BYTES or len(self._skipped) > _READ_AHEAD:
            del self._skipped[next(iter(self._skipped))]
        return number, value


class _ParquetTable:
    def __init__(self, address: str) -> None:
        from pyarrow.parquet import ParquetFile

        # Without a pre-buffer: a row group can be the whole file.
        self._file = ParquetFile(addresses.open_file(address, None), pre_buffer=False, buffer_size=1024 * 1024)
        self._column = _find_column(self._file.schema_arrow)

    def iter_paths(self) -> Iterator[str | None]:
        if not _has_paths(self._file.schema_arrow.field(self._column).type):
            yield from [None] * self._file.metadata.num_rows
            return
        for batch in self._file.iter_batches(65536, columns=[f"{self._column}.path"]):
            yield from batch.column(0).field("path").to_pylist()

    def iter_values(self, start: int) -> Iterator[Any]:
        groups, first = self._file.metadata.num_row_groups, 0
        while first < groups and start >= (rows := self._file.metadata.row_group(first).num_rows):
            start, first = start - rows, first + 1
        for batch in self._file.iter_batches(_BATCH, row_groups=range(first, groups), columns=[self._column]):
            for value in batch.column(0)[start:]:
                yield value.as_py()
            start = max(0, start - batch.num_rows)


class _ArrowTable:
    """A memory-mapped table, with fast access to any row."""

    def __init__(self, address: str) -> None:
        import pyarrow

        if is_url(address):
            raise SourceError("is an Arrow file, which must be on a local disk; save the dataset as Parquet")
        file = pyarrow.memory_map(address)
        reader = pyarrow.ipc.open_stream(file)
        self._values = reader.read_all().column(_find_column(reader.schema))

    def iter_paths(self) -> Iterator[str | None]:
        has_paths = _has_paths(self._values.type)
        for chunk in self._values.chunks:
            yield from chunk.field("path").to_pylist() if has_paths else [None] * len(chunk)

    def iter_values(self, start: int) -> Iterator[Any]:
        return (self._values[row].as_py() for row in range(start, len(self._values)))


def to_table_name(path: str) -> str:
    """Returns the prefix of the names of a table's images: its path without the suffix."""
    return posixpath.splitext(path)[0]


def _find_column(schema: Any) -> str:
    """Returns the column of images: a column of the type Image of `datasets`, or one of bytes with a usual name."""
    from pyarrow import types

    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for field in schema:
        kind = features.get(field.name, {"_type": "Image"})
        embedded = types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if embedded and isinstance(kind, dict) and kind.get("_type") == "Image":
            return str(field.name)
    for name in _BYTES_COLUMNS:
        at = schema.get_field_index(name)
        if at >= 0 and (types.is_binary(schema.field(at).type) or types.is_large_binary(schema.field(at).type)):
            return name
    raise SourceError(
        f"has no column of images: its columns are {', '.join(map(repr, schema.names[:20])) or 'missing'}. It needs a "
        "column of the type Image of `datasets`, or one of bytes named image. For a column of paths or URLs, use CSV"
    )


def _has_paths(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index("path") >= 0)


def _count_bytes(value: Any) -> int:
    return len((value.get("bytes") if isinstance(value, dict) else value) or b"")


def _guess_suffix(value: Any) -> str:
    """Returns the suffix of a table's first image. Most tables have images of one format."""
    data = (value.get("bytes") if isinstance(value, dict) else value) or b""
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "")
