"""The pictures of datasets: opened when they are needed, measured before."""

import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

from PIL import Image

from labels.images import FORMATS, MAX_BYTES, MAX_PIXELS, decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
_ORIENTATION = 0x0112  # EXIF's; from 5 on, width and height are exchanged


@runtime_checkable
class Encoded(Protocol):
    """A picture whose file is at hand, as `Example.open` mostly is; it can be pickled."""

    def stream(self) -> IO[bytes]:
        """The file, opened. Raises OSError."""

    def __call__(self) -> Image.Image:
        """RGB, upright. Raises OSError, and PictureError where it is broken."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file on a disk."""

    path: Path

    def stream(self) -> IO[bytes]:
        return self.path.open("rb")

    def __call__(self) -> Image.Image:
        return decode(self.path.read_bytes())


@dataclass(frozen=True, slots=True)
class PictureBytes:
    """A file in memory."""

    data: bytes = field(repr=False)

    def stream(self) -> IO[bytes]:
        return io.BytesIO(self.data)

    def __call__(self) -> Image.Image:
        return decode(self.data)


def sha256_of(picture: Encoded) -> str:
    """Of the file's bytes, in hex. Raises OSError."""
    with picture.stream() as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def size_of(picture: Encoded) -> tuple[int, int]:
    """Width and height as a viewer shows it; of most formats without decoding a pixel, so that a file that is cut short
    is noticed only when it is opened. Raises OSError where there is no file, and PictureError for what is no picture.
    """
    with suppress(Exception), picture.stream() as stream:  # what is wrong, the reader of pixels says better
        length = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        with Image.open(stream, formats=FORMATS) as opened:
            width, height = opened.size
            if length <= MAX_BYTES and 0 < width * height <= MAX_PIXELS:
                turned = opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
                return (height, width) if turned else (width, height)
    return picture().size


def found(name: str, folders: list[Path]) -> Path:
    """The file of a picture that a dataset calls `name`, in the first of `folders` that has it. Raises OSError."""
    # A list from Windows has its separators.
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in folders:
            path = folder / spelling
            with suppress(OSError, ValueError):  # a name that is too long, or holds a zero byte
                if spelling and path.is_file():
                    return path
    raise FileNotFoundError(f"there is no picture {name[:200]!r} in {' or '.join(dict.fromkeys(map(str, folders)))}")


def beside(path: Path) -> Path | None:
    """The picture that is called like another file, but for its suffix."""
    for suffix in SUFFIXES:
        for spelled in (suffix, suffix.upper()):
            picture = path.with_suffix(spelled)
            if picture.is_file():
                return picture
    return None


def below(folder: Path) -> list[Path]:
    """All pictures in a folder and the folders in it, in order; hidden ones are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
