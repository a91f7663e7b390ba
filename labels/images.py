"""Decodes image files from untrusted sources to RGB, or refuses them with a clear reason.

Files are recognized by content, never by suffix. Everything that the header states is checked before a pixel is
decoded. Where a file leaves a choice: transparency is shown on white, as on a web page; the first frame of an animation
and the first image of several count; more than 8 bits per channel are scaled, not clipped (see `pixel_depth`); EXIF
orientation is applied, so that boxes fit the image as a viewer shows it. What is beside the pixels, such as text and
profiles, is skipped where it is broken. A JPEG may lack its end marker, but no pixels.

A process can install a decoder (see `decoder_pool`), which decodes in other processes and so bounds time and memory.
"""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from labels.extras import describe_install
from labels.file_kinds import HEIC, JPEG, NETPBM, PNG, FileKind, can_decode_heic, recognize_kind
from labels.file_structure import FileStructureError, add_jpeg_end, check_jpeg, keep_png_pixels
from labels.pixel_depth import find_deep_colors, is_deep_gray, scale_gray, stretch_colors

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000  # below the size at which Pillow itself warns
MAX_SIDE = 1_000_000  # pixels: decoders take as long for a row of one pixel as for one of a thousand

# Only formats that this process decodes itself and that their first bytes identify: EPS would start Ghostscript, and
# TGA accepts anything.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
_FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, JPEG 2000 or AVIF"


class ImageErrorReason(StrEnum):
    """Why an image is refused."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"


class ImageError(ValueError):
    """An image cannot be used. The message says why, for the person who sent it."""

    def __init__(self, message: str, reason: ImageErrorReason) -> None:
        super().__init__(message)
        self.reason = reason


class SlowImageError(Exception):
    """The image takes longer than a quick decoder has for it."""


class Decoder(Protocol):
    """Decodes images for `decode_image`."""

    def decode(self, data: bytes, *, max_pixels: int) -> Image.Image:
        """Returns an encoded image as RGB. Raises ImageError."""


_installed: list[Decoder] = []  # one at most


def install_decoder(decoder: Decoder | None) -> None:
    """Sets what decodes the images of this process; None: the process itself."""
    _installed[:] = [decoder] if decoder else []


def decode_image(data: bytes, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns an encoded image as RGB, upright and loaded completely. Raises ImageError and nothing else.

    Pillow's own limit of about 179 million pixels applies in addition to `max_pixels`.
    """
    if not data:
        raise ImageError("the image is empty: 0 bytes", ImageErrorReason.EMPTY)
    if len(data) > max_bytes:
        message = f"the image has {len(data):,} bytes, more than the limit of {max_bytes:,}"
        raise ImageError(message, ImageErrorReason.TOO_LARGE)
    decode = _installed[0].decode if _installed else decode_in_process
    return decode(data, max_pixels=max_pixels)


def decode_in_process(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    allow_netpbm: bool = True,
    on_header: Callable[[Image.Image, int], None] = lambda image, scans: None,
) -> Image.Image:
    """Same as `decode_image`, but always in this process: it takes as long as the file wants.

    `on_header` is called with the opened image and its number of scans before the pixels are decoded. It may raise
    SlowImageError.
    """
    kind = recognize_kind(data)
    if kind is None or kind.pillow_format is None or (kind is NETPBM and not allow_netpbm):
        raise _make_kind_error(kind)
    if kind is HEIC and not can_decode_heic():
        raise _make_kind_error(kind)
    try:
        scans = check_jpeg(data) if kind is JPEG else 1

        def check_header(opened: Image.Image) -> None:
            _check_size(opened, max_pixels)
            on_header(opened, scans)

        return to_rgb(_apply_orientation(_load(data, kind, check_header)))
    except (ImageError, SlowImageError):
        raise
    except FileStructureError as error:
        raise ImageError(str(error), ImageErrorReason.TOO_SLOW) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _make_pixels_error("far too many", max_pixels) from error
    except MemoryError as error:
        message = "the image takes more memory than is allowed for its pixels; save it again, as JPEG or PNG"
        raise ImageError(message, ImageErrorReason.TOO_LARGE) from error
    except UnidentifiedImageError as error:
        message = f"this is {kind.description}, but its start is broken"
        raise ImageError(message, ImageErrorReason.UNREADABLE) from error
    except Exception as error:  # decoders raise nearly anything on broken files: SyntaxError, struct.error, EOFError …
        if _is_truncated(error):
            message = "the image is cut short: its file ends before its last pixel"
            raise ImageError(message, ImageErrorReason.TRUNCATED) from error
        raise ImageError(f"the image is broken: {error}", ImageErrorReason.UNREADABLE) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts a loaded image in any of Pillow's modes to RGB. The result does not refer to the image's file."""
    if is_deep_gray(image):
        return scale_gray(image)
    if image.has_transparency_data:
        mode = "LA" if image.mode == "La" else "RGBA" if image.mode == "PA" else image.mode
        layer = image.convert(mode).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    if image.mode != "RGB":
        return image.convert("RGB")
    plain = Image.new("RGB", (0, 0))
    plain.im, plain._size = image.im, image.size  # not `copy`, which would take a third of the time of decoding
    return plain


def _load(data: bytes, kind: FileKind, check_header: Callable[[Image.Image], None]) -> Image.Image:
    """Returns the loaded image. Repairs what is not about its pixels."""
    try:
        return _open_and_load(data, kind, check_header)
    except (ImageError, SlowImageError, MemoryError):
        raise
    except Exception as error:
        if kind is PNG and len(pixels_only := keep_png_pixels(data)) < len(data):
            return _open_and_load(pixels_only, kind, check_header)
        if kind is JPEG and _is_truncated(error) and (completions := add_jpeg_end(data)):
            image, other = (_open_and_load(each, kind, check_header) for each in completions)
            if ImageChops.difference(image, other).getbbox() is None:
                return image
        raise


def _open_and_load(data: bytes, kind: FileKind, check_header: Callable[[Image.Image], None]) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=[kind.pillow_format or ""]) as opened:
        check_header(opened)
        low_bytes = find_deep_colors(opened)
        opened.load()
        if low_bytes is None:
            return opened
        stretched = stretch_colors(opened, low_bytes, data)
        if stretched is not opened:
            stretched.info, stretched.getexif = opened.info, opened.getexif  # type: ignore[method-assign]
        return stretched


def _check_size(opened: Image.Image, max_pixels: int) -> None:
    width, height = opened.size
    if width < 1 or height < 1:
        raise ImageError(f"the image is empty: {width}×{height} pixels", ImageErrorReason.EMPTY)
    if width * height > max_pixels:
        raise _make_pixels_error(f"{width}×{height}", max_pixels)
    if max(width, height) > MAX_SIDE:
        message = f"the image has {width}×{height} pixels; the limit of a side is {MAX_SIDE:,}. Shrink or crop it"
        raise ImageError(message, ImageErrorReason.TOO_LARGE)


def _is_truncated(error: Exception) -> bool:
    return isinstance(error, EOFError | struct.error) or "truncated" in str(error).lower()


def _apply_orientation(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # a broken EXIF block is no reason to refuse the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _make_pixels_error(count: str, limit: int) -> ImageError:
    message = f"the image has {count} pixels, more than the limit of {limit:,}. Shrink it"
    return ImageError(message, ImageErrorReason.TOO_LARGE)


def _make_kind_error(kind: FileKind | None) -> ImageError:
    if kind is None:
        message = f"this is not an image that can be read, or its start is broken; send {_FORMAT_NAMES}"
        return ImageError(message, ImageErrorReason.UNREADABLE)
    advice = kind.advice or f"send {_FORMAT_NAMES}"
    if kind is HEIC:
        advice = f"convert it to JPEG, or let florist read it: {describe_install('heic')}"
    return ImageError(f"this is {kind.description}; {advice}", ImageErrorReason.UNSUPPORTED)
