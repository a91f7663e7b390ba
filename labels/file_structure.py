"""Checks and repairs the structure of JPEG and PNG files around their pixels, in time linear in the file's length."""

import re
import struct
import zlib

MAX_SEGMENTS = 4096
"""Segments of a JPEG before its pixels, and among them. Photos with a depth map in their metadata have some hundred."""
MAX_PADDING = 65_536
"""Bytes between the segments of a JPEG."""
MAX_SCANS = 100
"""Passes over the pixels of a progressive JPEG. Encoders write about ten."""
MAX_CHUNKS = 100_000
"""Chunks of a PNG. Encoders write one for each 8 kB or more."""

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # that starts a segment, or is the end
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}  # the last has the orientation


class FileStructureError(Exception):
    """The file is built so that it takes too long to decode. The message says the limit."""


def check_jpeg(data: bytes) -> int:
    """Returns the number of scans of a JPEG file. Raises FileStructureError beyond a limit."""
    position, length, segments, padding = 2, len(data), 0, 0
    while position + 1 < length:
        if data[position] != 0xFF or data[position + 1] in (0x00, 0xFF):
            position += 1 if data[position] != 0xFF or data[position + 1] == 0xFF else 2
            padding += 1
        else:
            marker = data[position + 1]
            if marker in (0xDA, 0xD9):
                break
            segments += 1
            size = 0 if marker in _STANDALONE else int.from_bytes(data[position + 2 : position + 4], "big")
            position += 2 + size
        if segments > MAX_SEGMENTS:
            raise _make_segments_error()
        if padding > MAX_PADDING:
            raise FileStructureError(f"the JPEG has more than {MAX_PADDING:,} bytes of padding; save it again")
    scans = _count_scans(data, position)
    if scans > MAX_SCANS:
        raise FileStructureError(f"the JPEG has {scans:,} scans, more than the limit of {MAX_SCANS}; save it again")
    return scans


def _count_scans(data: bytes, position: int) -> int:
    """Returns the number of scans up to the end of the image: phones append videos, in which any bytes occur."""
    scans = segments = 0
    while found := _MARKER.search(data, position):
        marker, position = data[found.start() + 1], found.end()
        if marker == 0xD9:
            break
        scans, segments = scans + (marker == 0xDA), segments + 1
        if segments > MAX_SEGMENTS:
            raise _make_segments_error()
        position += int.from_bytes(data[position : position + 2], "big")
    return scans


def _make_segments_error() -> FileStructureError:
    return FileStructureError(f"the JPEG has more than {MAX_SEGMENTS:,} segments; save it again without them")


def add_jpeg_end(data: bytes) -> tuple[bytes, bytes] | None:
    """Returns two completions of a JPEG file without an end marker; None if it has one.

    The pixels of both are equal if only the marker is missing. Otherwise the decoder takes what follows for pixels,
    and they differ.
    """
    if data.endswith(_END):
        return None
    data = data.removesuffix(b"\xff")
    return data + _END, data + b"\xaa\x55\x69\x96" * 64 + _END


def keep_png_pixels(data: bytes) -> bytes:
    """Returns a PNG file with only the chunks that its pixels need: no text, no profiles. Keeps a broken rest."""
    kept, position, chunks = [_PNG_START], len(_PNG_START), 0
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind, end = data[position + 4 : position + 8], position + 12 + length
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise FileStructureError(f"the PNG has more than {MAX_CHUNKS:,} chunks; save it again")
        if end > len(data) and kind in _PIXEL_CHUNKS:
            break
        if kind in _PIXEL_CHUNKS and (kind != b"eXIf" or _has_valid_checksum(data, position, end)):
            kept.append(data[position:end])
        position = end
        if kind == b"IEND":
            return b"".join(kept)
    return b"".join((*kept, data[position:]))


def _has_valid_checksum(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(data[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
