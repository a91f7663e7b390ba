"""Kinds of images by their first bytes."""

import io
from typing import Any

import pytest
from PIL import Image

from labels.image_formats import HEAD, OTHER_SUFFIXES, SUFFIXES, TEXT_SUFFIXES, is_image_suffix, recognize_format


def encode(kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "WebP"), ("GIF", "GIF"), ("BMP", "BMP"), ("TIFF", "TIFF"),
     ("PPM", "PPM"), ("JPEG2000", "JPEG 2000"), ("AVIF", "AVIF"), ("MPO", "JPEG")],
)  # fmt: skip
def test_formats_that_pillow_writes_are_recognized(kind: str, expected: str) -> None:
    options = {"save_all": True, "append_images": [Image.new("RGB", (3, 2))]} if kind == "MPO" else {}
    assert recognize_format(encode(kind, **options)[:HEAD]) == expected


@pytest.mark.parametrize(
    ("head", "name", "expected"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a.jpg", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "a", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a.cr3", "CR3"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a.mp4", None),
        (b"II*\0\x08\0\0\0", "IMG.DNG", "DNG"),
        (b"II*\0\x08\0\0\0", "scan", "TIFF"),
        (b"II*\0\x10\0\0\0CR\2\0", "a.cr2", "CR2"),
        (b"8BPS\0\1", "a", "PSD"),
        (b"\xff\x0a\xfa", "a", "JPEG XL"),
        (b"BM is a note", "a", None),
        (b"P3 is a note", "a", None),
        (b"Plain text", "a", None),
        (b"", "a", None),
        (b"P", "a", None),
    ],
)
def test_other_heads(head: bytes, name: str, expected: str | None) -> None:
    assert recognize_format(head, name) == expected


def test_suffixes_are_in_one_list_only() -> None:
    lists = (SUFFIXES, OTHER_SUFFIXES, TEXT_SUFFIXES)
    assert len({suffix for each in lists for suffix in each}) == sum(map(len, lists))
    assert [is_image_suffix(name) for name in ("a.JFIF", "a.dng", "a.txt", "a", "a.b/c", ".jpg")] == [
        True, True, False, None, None, None,
    ]  # fmt: skip
