"""Reads Parquet and Arrow files in a process of its own, which answers requests on a socket.

pyarrow trusts the sizes in a file: a broken or hostile one can crash it or make it take all memory. This process has a
limit, and only it ends. It imports nothing of florist, so that it starts soon.

A message is the length of a header (4 bytes), the header in JSON, and `size` bytes if the header has a size. Requests:
`open` a table, its next `paths`, the image of a `row`. While it answers, it may ask for bytes of the file (`fetch`).
"""

import io
import json
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

MAX_MEMORY = 2 * 1024 * 1024 * 1024  # bytes, besides mapped files
_MAX_MESSAGE = 1024 * 1024 * 1024
_BYTES_COLUMNS = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")
_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp"}
_BATCH = 16  # rows read at once, whose images are in memory together
_BATCH_BYTES = 64 * 1024 * 1024  # of these images, by the sizes that the file states
_READ_AHEAD = 64  # rows that may be skipped; for more, a new pass starts
_SKIPPED_BYTES = 64 * 1024 * 1024  # of skipped images that are kept, since they may be requested next
_PATHS = 8192  # in one message
_HEADER = struct.Struct("<I")


class Channel:
    """Messages on a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rwb")

    def send(self, header: dict[str, Any], data: bytes = b"") -> None:
        text = json.dumps(header | {"size": len(data)}).encode()
        self._file.write(_HEADER.pack(len(text)) + text)
        self._file.write(data)
        self._file.flush()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Raises EOFError if the other side has ended, and ValueError for a message that is too long."""
        (length,) = _HEADER.unpack(self._read(_HEADER.size))
        if length > _MAX_MESSAGE:
            raise ValueError("the header of a message is too long")
        header = json.loads(self._read(length))
        if not isinstance(header, dict) or not 0 <= header["size"] <= _MAX_MESSAGE:
            raise ValueError("a message is too long")
        return header, self._read(header["size"])

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        return data


class TableError(ValueError):
    """A table that has no images. The message continues the name of the file."""


class _FetchedFile(io.RawIOBase):
    """A file whose bytes the other process reads."""

    def __init__(self, channel: Channel, length: int) -> None:
        self._channel, self._length, self._position = channel, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._length)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._channel.send({"fetch": [self._position, len(buffer)]})
        header, data = self._channel.receive()
        if "error" in header:
            raise OSError(header["error"])
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Table(Protocol):
    """One file of a table."""

    def iter_paths(self) -> Iterator[str | None]:
        """Yields the path that each row has for its image."""

    def iter_values(self, start: int) -> Iterator[Any]:
        """Yields the image column of the rows from `start` on."""


class _ParquetTable:
    def __init__(self, file: Any) -> None:
        from pyarrow.parquet import ParquetFile

        # Without a pre-buffer: a row group can be the whole file.
        self._file = ParquetFile(file, pre_buffer=False, buffer_size=1024 * 1024)
        self._column = _find_column(self._file.schema_arrow)

    def iter_paths(self) -> Iterator[str | None]:
        if not _has_paths(self._file.schema_arrow.field(self._column).type):
            yield from (None for _ in range(self._file.metadata.num_rows))
            return
        for batch in self._file.iter_batches(_PATHS, columns=[f"{self._column}.path"], use_threads=False):
            yield from batch.column(0).field("path").to_pylist()

    def iter_values(self, start: int) -> Iterator[Any]:
        metadata, first = self._file.metadata, 0
        while first < metadata.num_row_groups and start >= (rows := metadata.row_group(first).num_rows):
            start, first = start - rows, first + 1
        for group in range(first, metadata.num_row_groups):
            stated = metadata.row_group(group)
            count = max(1, min(_BATCH, _BATCH_BYTES * stated.num_rows // max(1, stated.total_byte_size)))
            for batch in self._file.iter_batches(count, row_groups=[group], columns=[self._column], use_threads=False):
                for value in batch.column(0)[start:]:
                    yield value.as_py()
                start = max(0, start - batch.num_rows)


class _ArrowTable:
    """A memory-mapped table, with fast access to any row."""

    def __init__(self, descriptor: int) -> None:
        import pyarrow

        reader = pyarrow.ipc.open_stream(pyarrow.memory_map(f"/dev/fd/{descriptor}"))
        self._values = reader.read_all().column(_find_column(reader.schema))

    def iter_paths(self) -> Iterator[str | None]:
        has_paths = _has_paths(self._values.type)
        for chunk in self._values.chunks:
            for start in range(0, len(chunk), _PATHS):
                part = chunk[start : start + _PATHS]
                yield from part.field("path").to_pylist() if has_paths else [None] * len(part)

    def iter_values(self, start: int) -> Iterator[Any]:
        return (self._values[row].as_py() for row in range(start, len(self._values)))


class _OpenTable:
    """Answers requests about a table. Parquet is read forward."""

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._paths = table.iter_paths()
        self._rows: Iterator[Any] | None = None  # from `_next` on
        self._next = 0
        self._skipped: dict[int, Any] = {}

    def guess_suffix(self) -> str:
        """Returns the suffix of the first image. Most tables have images of one format."""
        data = _get_bytes(next(self._table.iter_values(0), None)) or b""
        return next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), "")

    def list_paths(self) -> list[str | None]:
        """Returns the paths of the next rows; an empty list at the end."""
        return list(islice(self._paths, _PATHS))

    def read_row(self, row: int) -> tuple[bytes | None, str | None]:
        """Returns the bytes of an image, and its path."""
        value = self._read_value(row)
        return _get_bytes(value), value.get("path") if isinstance(value, dict) else None

    def _read_value(self, row: int) -> Any:
        if row in self._skipped:
            return self._skipped.pop(row)
        rows = self._rows
        if rows is None or not 0 <= row - self._next < _READ_AHEAD:
            rows, self._next = self._table.iter_values(row), row
        self._rows = None  # after an error in the middle, the next read starts a new pass
        for skipped in range(self._next, row):
            self._skipped[skipped] = next(rows)
        value = next(rows)
        self._rows, self._next = rows, row + 1
        kept = sum(len(_get_bytes(value) or b"") for value in self._skipped.values())
        while kept > _SKIPPED_BYTES or len(self._skipped) > _READ_AHEAD:
            kept -= len(_get_bytes(self._skipped.pop(next(iter(self._skipped)))) or b"")
        return value


def _get_bytes(value: Any) -> bytes | None:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None


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
    raise TableError(
        f"has no column of images: its columns are {', '.join(map(repr, schema.names[:20])) or 'missing'}. It needs a "
        "column of the type Image of `datasets`, or one of bytes named image. For a column of paths or URLs, use CSV"
    )


def _has_paths(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind) and kind.get_field_index("path") >= 0)


def _open_table(channel: Channel, request: dict[str, Any]) -> _OpenTable:
    if request["descriptor"] is not None:
        if request["open"] == "arrow":
            return _OpenTable(_ArrowTable(request["descriptor"]))
        return _OpenTable(_ParquetTable(os.fdopen(request["descriptor"], "rb")))
    return _OpenTable(_ParquetTable(_FetchedFile(channel, request["length"])))


def main() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    table: _OpenTable | None = None
    while True:
        try:
            request, _ = channel.receive()
        except EOFError:
            return
        answer: dict[str, Any] = {}
        data: bytes | None = None
        try:
            if "open" in request:
                table = None
                table = _open_table(channel, request)
                answer = {"suffix": table.guess_suffix()}
            elif table is not None and "paths" in request:
                answer = {"paths": table.list_paths()}
            elif table is not None:
                data, path = table.read_row(request["row"])
                answer = {"path": path, "has_bytes": data is not None}
        except (TableError, ImportError) as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        except MemoryError:
            message = f"needs more than {MAX_MEMORY:,} bytes of memory to be read; write it with smaller row groups"
            answer = {"error": message, "kind": TableError.__name__}
        except Exception as error:  # pyarrow's own, on broken files
            answer = {"error": str(error)[:300] or type(error).__name__, "kind": "OSError"}
        channel.send(answer, data or b"")


if __name__ == "__main__":
    main()
