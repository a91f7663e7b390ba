"""The pictures of a zip archive, read in place.

Not by zipfile, which reads the whole directory at once and keeps some 600 bytes an entry: a million pictures would be
0.6 GB, and a directory of nothing but entries a way to fill the memory.
"""

import stat
import struct
import threading
import zlib
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from server.jobs.sources import addresses
from server.jobs.sources.source import (
    MOST_BYTES,
    ImageErrorKind,
    SourceImageError,
    ImageListing,
    ImageSource,
    SourceError,
    is_picture,
    too_large,
)

MOST_ENTRIES = 20_000_000

_END = struct.Struct("<4s4H2LH")  # of the directory: signature, disks, entries, its size and offset, comment
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FULL = 0xFFFFFFFF  # the value stands in the zip64 field
_ENCRYPTED = 0x2041  # flags: encrypted, strongly, or its directory too
_STORED, _DEFLATED = 0, 8


class _Entry(NamedTuple):
    name: str
    encrypted: bool
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    offset: int


class ZipSource(ImageSource):
    """The pictures of a zip archive, in the order of its directory."""

    def __init__(self, address: str) -> None:
        self._file = addresses.open_file(address)
        self._lock = threading.Lock()
        self._offsets, self._packed, self._sizes, self._crcs = array("Q"), array("Q"), array("Q"), array("L")
        self._deflated = bytearray()
        listing = ImageListing()
        try:
            for entry in _entries(self._file):
                if not is_picture(entry.name):
                    continue
                listing.add(entry.name, entry.size, _fault(entry))
                self._offsets.append(entry.offset)
                self._packed.append(entry.packed)
                self._sizes.append(entry.size)
                self._crcs.append(entry.crc)
                self._deflated.append(entry.method == _DEFLATED)
        except SourceError as error:
            self._file.close()
            raise SourceError(f"{addresses.shown(address)} {error}") from None
        except Exception as error:
            self._file.close()
            addresses.fail(address, error)
        super().__init__(listing)

    def close(self) -> None:
        self._file.close()

    def _read(self, position: int) -> bytes:
        size, packed = self._sizes[position], self._packed[position]
        try:
            with self._lock:
                self._file.seek(self._offsets[position])
                start = self._file.read(_LOCAL.size)
                if len(start) < _LOCAL.size or not start.startswith(b"PK\3\4"):
                    raise SourceImageError("the archive is broken: it has no entry where its directory says", ImageErrorKind.BROKEN)
                *_, name, extra = _LOCAL.unpack(start)
                self._file.seek(name + extra, 1)
                data = self._file.read(packed)
            if len(data) == packed and self._deflated[position]:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except SourceImageError:
            raise
        except zlib.error as error:
            raise SourceImageError(f"the archive is broken there: {error}", ImageErrorKind.BROKEN) from error
        except Exception as error:
            reason, fault = addresses.explained(error)
            raise SourceImageError(reason, fault) from error
        if len(data) > size:
            raise SourceImageError(f"it unpacks to more than the {size:,} bytes that the archive says", ImageErrorKind.TOO_LARGE)
        if len(data) < size or zlib.crc32(data) != self._crcs[position]:
            raise SourceImageError("the archive is broken there: the checksum does not fit", ImageErrorKind.BROKEN)
        return data


def _fault(entry: _Entry) -> SourceImageError | None:
    parts = entry.name.split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return SourceImageError(f"the archive says that it lies outside: {entry.name!r}", ImageErrorKind.REFUSED)
    if stat.S_ISLNK(entry.mode):
        return SourceImageError("it is a link, which is not followed in an archive", ImageErrorKind.REFUSED)
    if entry.encrypted:
        return SourceImageError("it is encrypted; unpack the archive with its password and name the folder", ImageErrorKind.ENCRYPTED)
    if entry.method not in (_STORED, _DEFLATED):
        return SourceImageError(f"it is packed by method {entry.method}; pack the archive again, by deflate", ImageErrorKind.BROKEN)
    return too_large(max(entry.size, entry.packed)) if max(entry.size, entry.packed) > MOST_BYTES else None


def _entries(file: BinaryIO) -> Iterator[_Entry]:
    """The entries of the directory, read bit by bit. Raises SourceError, OSError."""
    start, size, shift = _directory(file)
    file.seek(start)
    read, count = 0, 0
    while read < size:
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or not head.startswith(b"PK\1\2"):
            raise SourceError(f"is a broken zip archive: its directory cannot be read after {count:,} entries")
        _, _, _, flags, method, _, _, crc, packed, full, n, m, k, _, _, attributes, offset = _ENTRY.unpack(head)
        name, extra = file.read(n), file.read(m)
        file.seek(k, 1)
        read, count = read + _ENTRY.size + n + m + k, count + 1
        if count > MOST_ENTRIES:
            raise SourceError(f"has more than {MOST_ENTRIES:,} entries; split it")
        full, packed, offset = _wide(extra, full, packed, offset)
        mode = attributes >> 16
        yield _Entry(_decoded(name), bool(flags & _ENCRYPTED), method, crc, packed, full, mode, offset + shift)


def _directory(file: BinaryIO) -> tuple[int, int, int]:
    """Where the directory starts, its size in bytes, and what lies before the archive in its file."""
    length = file.seek(0, 2)
    file.seek(max(0, length - _END.size - 0xFFFF))
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise SourceError(
            "is no whole zip archive: the directory at its end is missing. It is cut short; copy it again"
        )
    at = length - len(tail) + found
    _, disk, _, _, _, size, offset, _ = _END.unpack_from(tail, found)
    if found >= _LOCATOR.size and tail.startswith(b"PK\6\7", found - _LOCATOR.size):
        at -= _LOCATOR.size + _END64.size
        file.seek(max(0, at))
        end = file.read(_END64.size)
        if at < 0 or not end.startswith(b"PK\6\6"):
            raise SourceError("is a broken zip archive: the end of its directory cannot be read")
        *_, size, offset = _END64.unpack(end)
    elif disk not in (0, 0xFFFF):
        raise SourceError("is one part of a split zip archive; join the parts (zip -s 0)")
    if size > at:
        raise SourceError("is a broken zip archive: its directory would be longer than the file")
    if at - size < offset:
        raise SourceError(f"is a broken zip archive: {offset - at + size:,} bytes are missing in it. Copy it again")
    return at - size, size, at - size - offset


def _wide(extra: bytes, *values: int) -> list[int]:
    """Size, packed size and offset, those that 32 bits cannot hold from the zip64 field."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            field = extra[4 : 4 + length]
            wide = list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
        extra = extra[4 + length :]
    return [wide.pop(0) if value == _FULL and wide else value for value in values]


def _decoded(name: bytes) -> str:
    """By UTF-8, which many write without saying so, or by the format's own code page. Windows' separators too."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("cp437")
    return text.replace("\\", "/")
