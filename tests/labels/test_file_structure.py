"""What is around the pixels of JPEG and PNG files."""

import zlib

import pytest

from labels.file_structure import (
    MAX_PADDING,
    MAX_SCANS,
    MAX_SEGMENTS,
    FileStructureError,
    add_jpeg_end,
    check_jpeg,
    keep_png_pixels,
)
from tests.labels.attack_images import (
    draw_noise,
    encode,
    make_chunk,
    make_comments,
    make_padding,
    make_png,
    make_scans,
)


def test_scans_are_counted() -> None:
    assert check_jpeg(encode(draw_noise(), "JPEG")) == 1
    scans = check_jpeg(encode(draw_noise(), "JPEG", progressive=True))
    assert 5 <= scans <= 12
    # A preview within the metadata has scans of its own.
    assert check_jpeg(encode(draw_noise(), "JPEG", comment=encode(draw_noise(), "JPEG"))) == 1
    # Phones append a video, in which any bytes occur.
    assert check_jpeg(encode(draw_noise(), "JPEG") + b"\xff\xda\x12" * (MAX_SCANS + 1)) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_comments(MAX_SEGMENTS + 1), "segments"),
        (make_scans(1).removesuffix(b"\xff\xd9") + b"\xff\xfe\x00\x02" * MAX_SEGMENTS, "segments"),
        (make_padding(MAX_PADDING + 1), "padding"),
        (make_padding(MAX_PADDING + 1, b"\xff\x00"), "padding"),
        (make_padding(MAX_PADDING + 1, b"\x00"), "padding"),
        (make_scans(MAX_SCANS), "scans"),
    ],
)
def test_what_takes_too_long_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(FileStructureError, match=message):
        check_jpeg(data)


@pytest.mark.parametrize("data", [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\xff", b"\xff\xd8\xff\xe0\x00\x00"])
def test_a_broken_header_is_not_an_error_here(data: bytes) -> None:
    assert check_jpeg(data) == 0


def test_only_a_jpeg_without_its_end_gets_one() -> None:
    data = encode(draw_noise(), "JPEG")
    assert add_jpeg_end(data) is None
    completions = add_jpeg_end(data[:-1])
    assert completions is not None
    assert completions[0] == data


def test_a_png_keeps_its_pixels_only() -> None:
    text = make_chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(100)))
    rows = b"\0\x01\x02"
    plain = make_png(2, 1, 8, 0, rows)
    assert keep_png_pixels(make_png(2, 1, 8, 0, rows, text, make_chunk(b"iCCP", b"bad"))) == plain
    assert keep_png_pixels(plain) == plain
    assert keep_png_pixels(plain[:-20]) == plain[:-20]  # a truncated file stays one
    broken_exif = make_chunk(b"eXIf", b"MM")[:-1] + b"!"
    assert keep_png_pixels(make_png(2, 1, 8, 0, rows, broken_exif)) == plain
