"""The images of a zip archive. They are read from the archive without unpacking it.

The zipfile module is not used, since it reads the whole directory at once and keeps about 600 bytes for each entry: a
million images would take 0.6 GB, and a directory with enough entries would fill the memory.
"""

import stat
import struct
import threading
import zlib
from array import array
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from labels.file_kinds import START_BYTES
from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error, to_image_error
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.names import is_hidden, is_image_name, may_be_image
from server.jobs.sources.source import (
    ALWAYS_UNPACKED_BYTES,
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    MAX_RATIO,
    AccessCheck,
    ImageSource,
    Reserve,
    SourceError,
    SourceImageError,
    SourceImageFault,
    make_size_error,
)
from server.store.text import redact_address

# The end of the directory: signature, disks, entries, its size and offset, comment.
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_IN_ZIP64 = 0xFFFFFFFF  # the value is in the zip64 field
_ENCRYPTED = 0x2041  # flags: encrypted, strong encryption, encrypted directory
_STORED, _DEFLATED = 0, 8
_MAX_UNKNOWN = 10_000  # entries without a known suffix of which the first bytes are read
_ENTRY_BYTES = 40  # memory of what is kept of an entry besides its name


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
    """The images of a zip archive, in the order of its directory."""

    def __init__(self, address: str, is_allowed: AccessCheck | None = None) -> None:
        self._file = addresses.open_file(address, is_allowed)
        self._lock = threading.Lock()
        self._offsets, self._packed, self._sizes, self._crcs = array("Q"), array("Q"), array("Q"), array("L")
        self._is_deflated = bytearray()
        listing = ImageListing()
        try:
            unknown: list[_Entry] = []
            for entry in _iter_entries(self._file):
                if is_image_name(entry.name):
                    self._add(listing, entry)
                elif may_be_image(entry.name) and len(unknown) < _MAX_UNKNOWN and _find_fault(entry) is None:
                    unknown.append(entry)
                elif not is_hidden(entry.name) and not entry.name.endswith("/"):
                    listing.set_aside(entry.name)
            for entry in unknown:
                if not entry.name.endswith("/") and listing.check_start(entry.name, self._read_start(entry)):
                    self._add(listing, entry)
            self._check_expansion(self._file.seek(0, 2))
        except SourceError as error:
            self._file.close()
            raise SourceError(f"{redact_address(address)} {error}") from None
        except Exception as error:
            self._file.close()
            raise_source_error(address, error)
        super().__init__(listing)

    def close(self) -> None:
        self._file.close()

    def get_stamp(self, position: int) -> str:
        return f"{self._sizes[position]}-{self._crcs[position]:08x}"

    def _add(self, listing: ImageListing, entry: _Entry) -> None:
        listing.add(entry.name, entry.size, _find_fault(entry), _ENTRY_BYTES)
        self._offsets.append(entry.offset)
        self._packed.append(entry.packed)
        self._sizes.append(entry.size)
        self._crcs.append(entry.crc)
        self._is_deflated.append(entry.method == _DEFLATED)

    def _check_expansion(self, length: int) -> None:
        """Raises SourceError for a zip bomb: entries that share bytes, or that expand too much."""
        offsets, packed = np.frombuffer(self._offsets, np.uint64), np.frombuffer(self._packed, np.uint64)
        order = np.argsort(offsets, kind="stable")
        starts, ends = offsets[order], (offsets + packed)[order]
        if (ends[:-1] > starts[1:]).any() or (starts[:-1] == starts[1:]).any():
            raise SourceError("is a broken zip archive, or a zip bomb: some of its entries overlap")
        if sum(self._sizes) > max(ALWAYS_UNPACKED_BYTES, MAX_RATIO * length):
            raise SourceError(f"expands to more than {MAX_RATIO} times its size, which archives of images do not")

    def _read_start(self, entry: _Entry) -> bytes:
        """Returns the first bytes of an entry; none if it is broken."""
        try:
            data = _read_packed(self._file, entry.offset, min(entry.packed, START_BYTES))
            return (
                data if entry.method == _STORED else zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, START_BYTES)
            )
        except (SourceImageError, zlib.error):
            return b""

    def _read(self, position: int, reserve: Reserve) -> bytes:
        size, packed = self._sizes[position], self._packed[position]
        try:
            reserve(size + packed)
            with self._lock:
                data = _read_packed(self._file, self._offsets[position], packed)
            if len(data) == packed and self._is_deflated[position]:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except SourceImageError:
            raise
        except zlib.error as error:
            raise SourceImageError(f"the archive is broken here: {error}", SourceImageFault.BROKEN) from error
        except Exception as error:
            raise to_image_error(error) from error
        if len(data) > size:
            raise SourceImageError(
                f"it expands to more than the {size:,} bytes that the archive declares", SourceImageFault.TOO_LARGE
            )
        if len(data) < size or zlib.crc32(data) != self._crcs[position]:
            raise SourceImageError("the archive is broken here: the checksum does not match", SourceImageFault.BROKEN)
        return data


def _read_packed(file: BinaryIO, offset: int, count: int) -> bytes:
    """Returns the first `count` bytes of an entry as they are in the archive. Raises SourceImageError."""
    file.seek(offset)
    start = file.read(_LOCAL.size)
    if len(start) < _LOCAL.size or not start.startswith(b"PK\3\4"):
        raise SourceImageError(
            "the archive is broken: the entry is not where its directory says", SourceImageFault.BROKEN
        )
    *_, name, extra = _LOCAL.unpack(start)
    file.seek(name + extra, 1)
    return file.read(count)


def _find_fault(entry: _Entry) -> SourceImageError | None:
    parts = entry.name.split("/")
    if ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return SourceImageError(f"its path is outside of the archive: {entry.name!r}", SourceImageFault.REFUSED)
    if stat.S_ISLNK(entry.mode):
        return SourceImageError("it is a link; links in archives are not followed", SourceImageFault.REFUSED)
    if entry.encrypted:
        return SourceImageError(
            "it is encrypted; unpack the archive with its password and use the folder", SourceImageFault.ENCRYPTED
        )
    if entry.method not in (_STORED, _DEFLATED):
        return SourceImageError(
            f"it uses compression method {entry.method}; create the archive again with deflate", SourceImageFault.BROKEN
        )
    return make_size_error(max(entry.size, entry.packed)) if max(entry.size, entry.packed) > MAX_FILE_BYTES else None


def _iter_entries(file: BinaryIO) -> Iterator[_Entry]:
    """Yields the entries of the directory. Reads them one by one. Raises SourceError and OSError."""
    start, size, shift = _find_directory(file)
    file.seek(start)
    done, count = 0, 0
    while done < size:
        head = file.read(_ENTRY.size)
        if len(head) < _ENTRY.size or not head.startswith(b"PK\1\2"):
            raise SourceError(f"is a broken zip archive: its directory cannot be read after {count:,} entries")
        _, _, _, flags, method, _, _, crc, packed, full, n, m, k, _, _, attributes, offset = _ENTRY.unpack(head)
        name, extra = file.read(n), file.read(m)
        file.seek(k, 1)
        done, count = done + _ENTRY.size + n + m + k, count + 1
        if count > MAX_ENTRIES:
            raise SourceError(f"has more than {MAX_ENTRIES:,} entries; split it")
        full, packed, offset = _read_zip64(extra, full, packed, offset)
        mode = attributes >> 16
        yield _Entry(_decode_name(name), bool(flags & _ENCRYPTED), method, crc, packed, full, mode, offset + shift)


def _find_directory(file: BinaryIO) -> tuple[int, int, int]:
    """Returns the offset of the directory, its size in bytes, and the number of bytes before the archive."""
    length = file.seek(0, 2)
    file.seek(max(0, length - _END.size - 0xFFFF))
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise SourceError("is not a complete zip archive: the directory at its end is missing. Copy it again")
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
        raise SourceError("is a broken zip archive: its directory is longer than the file")
    if at - size < offset:
        raise SourceError(f"is a broken zip archive: {offset - at + size:,} bytes are missing. Copy it again")
    return at - size, size, at - size - offset


def _read_zip64(extra: bytes, *values: int) -> list[int]:
    """Returns size, packed size and offset; values that need more than 32 bits come from the zip64 field."""
    large: list[int] = []
    at = 0
    while at + 4 <= len(extra) and not large:
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
            large = list(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
        at += 4 + length
    return [large.pop(0) if value == _IN_ZIP64 and large else value for value in values]


def _decode_name(name: bytes) -> str:
    """Decodes a name as UTF-8, which many tools write without setting the flag, or else as code page 437. Replaces
    backslashes."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("cp437")
    return text.replace("\\", "/")
