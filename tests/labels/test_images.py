"""Everything that people send is answered, with an image or an ImageError."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from labels.images import ImageError, ImageErrorReason, decode_image

GRADIENT = np.linspace(0, 255, 12 * 10 * 3).reshape(10, 12, 3).astype(np.uint8)
RGB = Image.fromarray(GRADIENT)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_png_header(width: int, height: int) -> bytes:
    """Returns a PNG with a size in its header and no pixels."""

    def make_chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + make_chunk(b"IHDR", head)
        + make_chunk(b"IDAT", zlib.compress(b""))
        + make_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG", "JPEG2000", "AVIF"])
def test_every_file_format_is_decoded(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in ("JPEG", "AVIF") else {}
    got = decode_image(encode(RGB, kind, **options))
    assert (got.mode, got.size) == ("RGB", (12, 10))
    assert np.abs(np.asarray(got).astype(int) - GRADIENT).mean() < 12


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_is_converted_to_rgb(mode: str) -> None:
    image = Image.new("I;16", (4, 3), 30000) if mode == "I;16" else RGB.convert(mode)
    # Some versions of Pillow cannot read the YCbCr TIFF that they write.
    got = decode_image(encode(image, "JPEG" if mode == "YCbCr" else "TIFF"))
    assert got.mode == "RGB"
    assert got.size == image.size


def test_one_bit_is_black_and_white() -> None:
    bits = Image.new("1", (2, 1))
    bits.putpixel((1, 0), 1)
    assert list(np.asarray(decode_image(encode(bits)))[0, :, 0]) == [0, 255]


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = Image.fromarray(np.array([[0, 257, 32768, 65535]], dtype=np.uint16))
    for kind in ("PNG", "TIFF"):
        assert np.asarray(decode_image(encode(deep, kind)))[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([-1.0, 0.0, 1.0], [0, 128, 255])],
)
def test_floats_are_scaled(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert np.asarray(decode_image(encode(image, "TIFF")))[0, :, 0].tolist() == expected


def test_nan_and_infinity_are_clipped() -> None:
    image = Image.fromarray(np.array([[np.nan, np.inf, -np.inf, 0.5]], dtype=np.float32))
    assert decode_image(encode(image, "TIFF")).size == (4, 1)


def test_wide_integers_are_stretched() -> None:
    image = Image.fromarray(np.array([[-100000, 0, 100000]], dtype=np.int32))
    assert np.asarray(decode_image(encode(image, "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_shown_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 255))
    assert np.asarray(decode_image(encode(clear.convert(mode))))[0, :, 0].tolist() == [255, 0]


def test_transparent_palettes_and_key_colors_are_shown_on_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        got = np.asarray(decode_image(encode(palette, kind, transparency=0)))
        assert got[0].tolist() == [[255, 255, 255], [10, 20, 30]]
    keyed = decode_image(encode(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3)))
    assert keyed.getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "black")
    image.paste("white", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90° clockwise
    for kind in ("JPEG", "PNG", "WEBP"):
        got = decode_image(encode(image, kind, exif=exif))
        assert got.size == (10, 20)
        assert got.getpixel((5, 3))[0] > 200
        assert got.getpixel((5, 16))[0] < 50


def test_broken_exif_is_ignored() -> None:
    assert decode_image(encode(RGB, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")).size == (12, 10)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(kind: str) -> None:
    red, blue = Image.new("RGB", (6, 5), "red"), Image.new("RGB", (6, 5), "blue")
    got = decode_image(encode(red, kind, save_all=True, append_images=[blue]))
    assert got.size == (6, 5)
    assert got.getpixel((2, 2))[0] > 200


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_aspect_ratios_are_decoded(size: tuple[int, int]) -> None:
    assert decode_image(encode(Image.new("RGB", size))).size == size


def get_error_reason(data: bytes, **limits: int) -> ImageErrorReason:
    with pytest.raises(ImageError) as raised:
        decode_image(data, **limits)
    assert str(raised.value)
    return raised.value.reason


def test_bytes_and_pixels_are_limited() -> None:
    data = encode(RGB)
    assert get_error_reason(b"") == "empty"
    assert get_error_reason(data, max_bytes=len(data) - 1) == "too_large"
    assert get_error_reason(data, max_pixels=119) == "too_large"
    assert decode_image(data, max_bytes=len(data), max_pixels=120).size == (12, 10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(10_000, 9_500), (65_000, 65_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_decompression_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    assert get_error_reason(make_png_header(*size)) == "too_large"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello", ImageErrorReason.UNREADABLE),
        (b"\x00" * 100, ImageErrorReason.UNREADABLE),
        (b"\x89PNG\r\n\x1a\n", ImageErrorReason.UNREADABLE),
        (b"\xff\xd8\xff\xe0", ImageErrorReason.UNREADABLE),
        (b"%PDF-1.7 ...", ImageErrorReason.UNSUPPORTED),
        (b'  <svg xmlns="http://www.w3.org/2000/svg"/>', ImageErrorReason.UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ImageErrorReason.UNSUPPORTED),
    ],
    ids=repr,
)
def test_files_that_are_not_images_are_refused_with_a_reason(data: bytes, reason: ImageErrorReason) -> None:
    assert get_error_reason(data) == reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "AVIF"])
def test_truncated_files_are_refused(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encode(noise, kind)
    reasons = {get_error_reason(data[: int(len(data) * part)]) for part in (0.3, 0.6, 0.9)}
    assert reasons <= {ImageErrorReason.TRUNCATED, ImageErrorReason.UNREADABLE}
    if kind in ("PNG", "JPEG", "BMP"):
        assert reasons == {ImageErrorReason.TRUNCATED}


def choose_damage(kind: str) -> Callable[[bytes, int, int], bytes]:
    base = encode(RGB, kind)

    def spoil(noise: bytes, start: int, cut: int) -> bytes:
        at = start % len(base)
        return (base[:at] + noise + base[at + len(noise) :])[: max(1, len(base) - cut % len(base))]

    return spoil


SPOILERS = {
    kind: choose_damage(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF")
}


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(SPOILERS)), st.binary(min_size=1, max_size=12), st.integers(0, 10**6), st.integers(0, 400)
)
def test_corrupted_files_raise_only_image_errors(kind: str, noise: bytes, start: int, cut: int) -> None:
    try:
        got = decode_image(SPOILERS[kind](noise, start, cut), max_pixels=1_000_000)
    except ImageError:
        return
    assert got.mode == "RGB"
