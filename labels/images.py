"""Decodes image files from untrusted sources to RGB, or refuses them with a clear reason.

Everything that the header states is checked before a pixel is decoded. Where a file leaves a choice: transparency is
shown on white, as on a web page; the first frame of an animation counts; more than 8 bits per channel are scaled, not
clipped; EXIF orientation is applied, so that boxes fit the image as a viewer shows it.
"""

import io
import struct
from contextlib import suppress
from enum import StrEnum

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000  # below the size at which Pillow itself warns

# Only formats that this process decodes itself and that their first bytes identify: EPS would start Ghostscript, and
# TGA accepts anything.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF"
# Other kinds of files that people send as images, by the bytes at an offset.
_UNSUPPORTED = (
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file, perhaps an SVG drawing"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (4, b"ftyphe", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypmp4", "a video"),
    (4, b"ftypisom", "a video"),
    (0, b"8BPS", "a Photoshop file"),
)


class ImageErrorReason(StrEnum):
    """Why an image is refused."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"


class ImageError(ValueError):
    """An image cannot be used. The message says why, for the person who sent it."""

    def __init__(self, message: str, reason: ImageErrorReason) -> None:
        super().__init__(message)
        self.reason = reason


def decode_image(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns an encoded image as RGB, upright and loaded completely. Raises ImageError and nothing else.

    Pillow's own limit of about 179 million pixels applies in addition to `max_pixels`.
    """
    if not data:
        raise ImageError("the image is empty: 0 bytes", ImageErrorReason.EMPTY)
    if len(data) > max_bytes:
        message = f"the image has {len(data):,} bytes, more than the limit of {max_bytes:,}"
        raise ImageError(message, ImageErrorReason.TOO_LARGE)
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            width, height = opened.size
            if width < 1 or height < 1:
                raise ImageError(f"the image is empty: {width}×{height} pixels", ImageErrorReason.EMPTY)
            if width * height > max_pixels:
                raise _make_pixels_error(f"{width}×{height}", max_pixels)
            opened.load()
            return to_rgb(_apply_orientation(opened))
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise _make_pixels_error("far too many", max_pixels) from error
    except UnidentifiedImageError as error:
        raise _make_format_error(data) from error
    except Exception as error:  # decoders raise nearly anything on broken files: SyntaxError, struct.error, EOFError …
        if isinstance(error, EOFError | struct.error) or "truncated" in str(error).lower():
            message = "the image is cut short: its file ends before its last pixel"
            raise ImageError(message, ImageErrorReason.TRUNCATED) from error
        raise ImageError(f"the image is broken: {error}", ImageErrorReason.UNREADABLE) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image in any of Pillow's modes to RGB. Returns a copy that does not refer to the image's file."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_gray(np.asarray(image), image.mode)
    if image.has_transparency_data:
        mode = "LA" if image.mode == "La" else "RGBA" if image.mode == "PA" else image.mode
        layer = image.convert(mode).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _scale_gray(values: np.ndarray, mode: str) -> Image.Image:
    """Converts gray of more than 8 bits to RGB: 16 bits by their full range, 32 bits and floats by their values."""
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low, high = 0.0, 65535.0 if mode != "F" else 1.0 if most <= 1 else 255.0
    if least < low or most > high:
        low, high = least, most
    scale = 255 / ((high - low) or 1.0)
    values = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    return Image.fromarray(np.rint(values * scale - low * scale).clip(0, 255).astype(np.uint8)).convert("RGB")


def _apply_orientation(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # a broken EXIF block is no reason to refuse the pixels
        return ImageOps.exif_transpose(image)
    return image


def _make_pixels_error(count: str, limit: int) -> ImageError:
    message = f"the image has {count} pixels, more than the limit of {limit:,}. Shrink it"
    return ImageError(message, ImageErrorReason.TOO_LARGE)


def _make_format_error(data: bytes) -> ImageError:
    start = data[:64].lstrip().lower()
    for offset, magic, kind in _UNSUPPORTED:
        if start[offset:].startswith(magic.lower()):
            return ImageError(f"this is {kind}; send {_FORMAT_NAMES}", ImageErrorReason.UNSUPPORTED)
    message = f"this is not an image that can be read, or its start is broken; send {_FORMAT_NAMES}"
    return ImageError(message, ImageErrorReason.UNREADABLE)
