"""Bytes from strangers → an RGB picture, or a clear refusal.

Everything that can be told from the header is checked before a pixel is decoded. Choices, where a file leaves one:
alpha is laid on white, as a page shows it; of an animation the first frame counts; more than 8 bits are scaled, not
clipped; the EXIF orientation is applied, so boxes fit the picture as a viewer shows it.
"""

import io
import struct
from contextlib import suppress
from enum import StrEnum

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000  # under the size at which Pillow itself begins to warn

# Only formats whose decoders run in this process and that say by their first bytes what they are: EPS would start
# Ghostscript, TGA claims anything.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_SHOWN = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF"
# Other kinds that people send as pictures, by how they begin after `offset` bytes.
_FOREIGN = (
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file, perhaps an SVG drawing"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (4, b"ftyphe", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftypmp4", "a video"),
    (4, b"ftypisom", "a video"),
    (0, b"8BPS", "a Photoshop file"),
)


class Reason(StrEnum):
    """Why a picture is refused."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"


class ImageError(ValueError):
    """A picture that cannot be used; the message says why, in words for the person who sent it."""

    def __init__(self, message: str, reason: Reason) -> None:
        super().__init__(message)
        self.reason = reason


def decode_image(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An encoded picture → RGB, upright, wholly in memory. Raises ImageError and nothing else.

    Pillow's own limit of about 179 million pixels holds beside `max_pixels`.
    """
    if not data:
        raise ImageError("the picture is empty: 0 bytes", Reason.EMPTY)
    if len(data) > max_bytes:
        raise ImageError(f"the picture has {len(data):,} bytes; at most {max_bytes:,} are read", Reason.TOO_LARGE)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            width, height = opened.size
            if width < 1 or height < 1:
                raise ImageError(f"the picture is {width}×{height} pixels: there is nothing on it", Reason.EMPTY)
            if width * height > max_pixels:
                raise _too_many(f"{width}×{height}", max_pixels)
            opened.load()
            return to_rgb(_upright(opened))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise _too_many("far too many", max_pixels) from error
    except UnidentifiedImageError as error:
        raise _unidentified(data) from error
    except Exception as error:  # decoders of broken files raise nearly anything: SyntaxError, struct.error, EOFError …
        if isinstance(error, EOFError | struct.error) or "truncated" in str(error).lower():
            raise ImageError(
                "the picture is cut short: its file ends before its pixels do", Reason.TRUNCATED
            ) from error
        raise ImageError(f"the picture is broken: {error}", Reason.UNREADABLE) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture in any of Pillow's modes → RGB.."""
    if image.mode.startswith("I") or image.mode == "F":
        return _grey(np.asarray(image), image.mode)
    if image.has_transparency_data:
        layer = image.convert("LA" if image.mode == "La" else image.mode if image.mode != "PA" else "RGBA").convert(
            "RGBA"
        )
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    # A copy, so that what comes back never hangs on the file it came from.
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _grey(values: np.ndarray, mode: str) -> Image.Image:
    """Grey of more than 8 bits → RGB of 8. 16 bits by their full range, 32 and floats by what they hold."""
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low, high = 0.0, 65535.0 if mode != "F" else 1.0 if most <= 1 else 255.0
    if least < low or most > high:
        low, high = least, most
    scale = 255 / ((high - low) or 1.0)
    values = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    return Image.fromarray(np.rint(values * scale - low * scale).clip(0, 255).astype(np.uint8)).convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # a broken EXIF block is no reason to refuse the pixels
        return ImageOps.exif_transpose(image)
    return image


def _too_many(count: str, most: int) -> ImageError:
    return ImageError(f"the picture has {count} pixels; at most {most:,} are decoded. Shrink it", Reason.TOO_LARGE)


def _unidentified(data: bytes) -> ImageError:
    start = data[:64].lstrip().lower()
    for offset, magic, kind in _FOREIGN:
        if start[offset:].startswith(magic.lower()):
            return ImageError(f"this is {kind}; send {_SHOWN}", Reason.UNSUPPORTED)
    return ImageError(
        f"this is not a picture that can be read, or its start is broken; send {_SHOWN}", Reason.UNREADABLE
    )
