"""The pictures of Parquet and Arrow files, as Hugging Face datasets lie on disks and in buckets."""

import bisect
import json
import posixpath
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from server.jobs.sources import addresses
from server.jobs.sources.source import MOST_BYTES, Allowed, ImageErrorKind, SourceImageError, ImageListing, ImageSource, SourceError, too_large

SUFFIXES = (".parquet", ".arrow")
_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")  # of plain bytes
_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}
_BATCH = 16  # rows read at once, whose pictures are in memory together
_AHEAD = 64  # rows that are read over rather than begun anew
_PASSED = 64 * 1024 * 1024  # bytes of pictures that were passed over and may be asked for next


class _Table(Protocol):
    """One file: the paths that its rows give their pictures, and its rows from one on."""

    def paths(self) -> Iterator[str | None]: ...

    def values(self, start: int) -> Iterator[Any]: ...


class Tables(ImageSource):
    """The pictures of tables, each a row, in order. `files`: what each is called, its address, its size in bytes.

    A row is called by its path below its table's name, or by its number. Parquet is read forward: rows in order cost
    one pass, one behind the last that was asked for costs its row group anew.
    """

    def __init__(self, files: Sequence[tuple[str, str, int]], allowed: Allowed | None = None) -> None:
        self._addresses, self._allowed = [address for _, address, _ in files], allowed
        self._starts: list[int] = []  # of each table's rows among all
        self._lock = threading.Lock()
        self._open: tuple[int, _Table] | None = None
        self._rows: Iterator[Any] | None = None  # of the open table, from `_next` on
        self._next = 0
        self._passed: dict[int, Any] = {}
        listing = ImageListing()
        for number, (name, address, size) in enumerate(files):
            self._starts.append(len(listing.names))
            try:
                table = self._table(number)
                suffix = _suffix(next(table.values(0), None))
                for row, path in enumerate(table.paths()):
                    path = (
                        posixpath.basename(path) if path and (path.startswith("/") or addresses.is_url(path)) else path
                    )
                    # A row's own size stands in the column that is not read here; the file's does for noticing changes.
                    listing.add(f"{name}/{path or f'{row:08}{suffix}'}", size)
            except SourceError as error:
                raise SourceError(f"{addresses.shown(address)} {error}") from None
            except ImportError as error:
                raise SourceError(f"{name} needs the package pyarrow: pip install 'florist[jobs-datasets]'") from error
            except Exception as error:
                addresses.fail(address, error)
        super().__init__(listing)

    def close(self) -> None:
        self._open = self._rows = None
        self._passed.clear()

    def _table(self, number: int) -> _Table:
        if self._open is None or self._open[0] != number:
            address = self._addresses[number]
            table = _Arrow(address) if address.endswith(".arrow") else _Parquet(address)
            self._open, self._rows = (number, table), None
        return self._open[1]

    def _read(self, position: int) -> bytes:
        try:
            with self._lock:
                number, value = self._value(position)
        except Exception as error:
            reason, fault = addresses.explained(error)
            raise SourceImageError(reason, fault) from error
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and path:
            return addresses.read(addresses.join(addresses.parent(self._addresses[number]), path), self._allowed)
        if data is None:
            raise SourceImageError("its row holds no picture", ImageErrorKind.MISSING)
        if len(data) > MOST_BYTES:
            raise too_large(len(data))
        return bytes(data)

    def _value(self, position: int) -> tuple[int, Any]:
        """The table, by its number, and what its row holds."""
        number = bisect.bisect_right(self._starts, position) - 1
        if position in self._passed:
            return number, self._passed.pop(position)
        table, rows = self._table(number), self._rows
        if rows is None or not 0 <= position - self._next < _AHEAD:
            rows, self._next = table.values(position - self._starts[number]), position
        self._rows = None  # half read after an error, it is begun anew
        for passed in range(self._next, position):
            self._passed[passed] = next(rows)
        value = next(rows)
        self._rows, self._next = rows, position + 1
        while sum(map(_bytes, self._passed.values())) > _PASSED or len(self._passed) > _AHEAD:
            del self._passed[next(iter(self._passed))]
        return number, value


class _Parquet:
    def __init__(self, address: str) -> None:
        from pyarrow.parquet import ParquetFile

        # Not buffered ahead: a row group can be the whole file.
        self._file = ParquetFile(addresses.open_file(address), pre_buffer=False, buffer_size=1024 * 1024)
        self._column = _column(self._file.schema_arrow)

    def paths(self) -> Iterator[str | None]:
        if not _has_paths(self._file.schema_arrow.field(self._column).type):
            yield from [None] * self._file.metadata.num_rows
            return
        for batch in self._file.iter_batches(65536, columns=[f"{self._column}.path"]):
            yield from batch.column(0).field("path").to_pylist()

    def values(self, start: int) -> Iterator[Any]:
        groups, first = self._file.metadata.num_row_groups, 0
        while first < groups and start >= (rows := self._file.metadata.row_group(first).num_rows):
            start, first = start - rows, first + 1
        for batch in self._file.iter_batches(_BATCH, row_groups=range(first, groups), columns=[self._column]):
            for value in batch.column(0)[start:]:
                yield value.as_py()
            start = max(0, start - batch.num_rows)


class _Arrow:
    """Mapped into memory, so that any row is at hand."""

    def __init__(self, address: str) -> None:
        import pyarrow

        if addresses.is_url(address):
            raise SourceError("is an Arrow file, which is read from a local disk alone; save the dataset as Parquet")
        file = pyarrow.memory_map(address)
        reader = pyarrow.ipc.open_stream(file)
        self._values = reader.read_all().column(_column(reader.schema))

    def paths(self) -> Iterator[str | None]:
        paths = _has_paths(self._values.type)
        for chunk in self._values.chunks:
            yield from chunk.field("path").to_pylist() if paths else [None] * len(chunk)

    def values(self, start: int) -> Iterator[Any]:
        return (self._values[row].as_py() for row in range(start, len(self._values)))


def table_name(path: str) -> str:
    """What a table's rows are called under: its path without the suffix."""
    return posixpath.splitext(path)[0]


def local_tables(root: Path, paths: Sequence[str]) -> list[tuple[str, str, int]]:
    """Files below `root` as Tables takes them."""
    return [(table_name(path), f"{root}/{path}", (root / path).stat().st_size) for path in paths]


def _column(schema: Any) -> str:
    """The column that holds pictures: what `datasets` calls an Image, else bytes by a name that says so."""
    from pyarrow import types

    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    for field in schema:
        kind = features.get(field.name, {"_type": "Image"})
        embedded = types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if embedded and isinstance(kind, dict) and kind.get("_type") == "Image":
            return str(field.name)
    for name in _COLUMNS:
        at = schema.get_field_index(name)
        if at >= 0 and (types.is_binary(schema.field(at).type) or types.is_large_binary(schema.field(at).type)):
            return name
    raise SourceError(
        f"has no column of pictures: it has {', '.join(map(repr, schema.names[:20])) or 'none'}. One is read that "
        "`datasets` calls an Image, or one of bytes that is called image; a column of paths or URLs goes as CSV"
    )


def _has_paths(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index("path") >= 0)


def _bytes(value: Any) -> int:
    return len((value.get("bytes") if isinstance(value, dict) else value) or b"")


def _suffix(value: Any) -> str:
    """The kind of a table's first picture: all of a table are mostly of one, and their names should say it."""
    data = (value.get("bytes") if isinstance(value, dict) else value) or b""
    return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "")
