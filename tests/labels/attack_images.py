"""Image files that are small and take long to decode, and files with parts that decoders stumble over."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def draw_noise(width: int = 64, height: int = 48, channels: int = 3) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def make_scans(count: int, side: int = 64) -> bytes:
    """Returns a progressive JPEG whose last scan is there `count` times more."""
    data = encode(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True, quality=20)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * count + data[-2:]


def make_comments(count: int) -> bytes:
    data = encode(draw_noise(), "JPEG")
    return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]


def make_padding(count: int, padding: bytes = b"\xff") -> bytes:
    data = encode(draw_noise(), "JPEG")
    return data[:2] + padding * count + data[2:]


def make_text_ppm(side: int) -> bytes:
    return b"P3 %d %d 255\n" % (side, side) + b"1 " * (3 * side * side)


def make_png(width: int, height: int, bits: int, color: int, rows: bytes, *extra: bytes, interlaced: int = 0) -> bytes:
    """Returns a PNG file. `rows`: with the filter type before each. `extra`: chunks between header and pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    chunks = (make_chunk(b"IHDR", header), *extra, make_chunk(b"IDAT", zlib.compress(rows)), make_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def make_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def make_deep_png(values: np.ndarray) -> bytes:
    """Returns a PNG with 16 bits per channel. `values`: uint16 [height, width] or [height, width, 3 or 4]."""
    color = {2: 0, 3: 2 if values.shape[-1] == 3 else 6}[values.ndim]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return make_png(values.shape[1], values.shape[0], 16, color, rows)


def make_thin_png(height: int) -> bytes:
    return make_png(1, height, 8, 0, b"\0\0" * height)
