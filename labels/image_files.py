"""Image files of datasets: measured without decoding, decoded on demand."""

import hashlib
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from PIL import Image

from labels.images import IMAGE_FORMATS, MAX_BYTES, MAX_PIXELS, decode_image
from labels.regular_files import open_regular_file

_MAX_HEADER_READS = 20_000  # more than a JPEG of as many segments as are allowed takes
_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange width and height


@runtime_checkable
class EncodedImage(Protocol):
    """An image whose encoded file is available. Can be pickled. Most values of `LabeledImage.open` are of this type."""

    def stream(self) -> IO[bytes]:
        """Opens the file. Raises OSError."""

    def __call__(self) -> Image.Image:
        """Returns the image, RGB and upright. Raises OSError, and ImageError if it is broken."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file on disk."""

    path: Path

    def stream(self) -> IO[bytes]:
        return open_regular_file(self.path)

    def __call__(self) -> Image.Image:
        with self.stream() as file:
            return decode_image(file.read(MAX_BYTES + 1))


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image file in memory."""

    data: bytes = field(repr=False)

    def stream(self) -> IO[bytes]:
        return io.BytesIO(self.data)

    def __call__(self) -> Image.Image:
        return decode_image(self.data)


@dataclass(frozen=True, slots=True)
class DeferredImage:
    """An image file that `read` loads when it is needed, for example from an archive or a bucket."""

    read: Callable[[], bytes]

    def stream(self) -> IO[bytes]:
        return io.BytesIO(self.read())

    def __call__(self) -> Image.Image:
        return decode_image(self.read())


def compute_sha256(image: EncodedImage) -> str:
    """Returns the SHA-256 of the file's bytes, in hex. Raises OSError."""
    with image.stream() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # any binary file


def read_size(image: EncodedImage) -> tuple[int, int]:
    """Returns width and height as a viewer shows the image.

    Reads only the header of most formats, so a truncated file is not noticed before it is decoded. Raises OSError if
    there is no file, and ImageError if it is not an image.
    """
    # If anything is wrong, decoding gives the better error.
    with suppress(Exception), image.stream() as stream:
        length = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        with Image.open(_HeaderStream(stream), formats=IMAGE_FORMATS) as opened:  # type: ignore[arg-type]
            width, height = opened.size
            if length <= MAX_BYTES and 0 < width * height <= MAX_PIXELS:
                is_turned = opened.format == "TIFF"  # by Pillow
                transposed = not is_turned and opened.getexif().get(_ORIENTATION, 1) in _TRANSPOSED
                return (height, width) if transposed else (width, height)
    return image().size


class _HeaderStream:
    """A file that can be read from a limited number of times: millions of tiny segments take many seconds."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._reads = stream, 0
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        self._reads += 1
        if self._reads > _MAX_HEADER_READS:
            raise OSError("the header takes too long to read")
        return self._stream.read(size)
