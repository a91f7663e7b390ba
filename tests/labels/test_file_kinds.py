"""Files are recognized by their first bytes, whatever their names say."""

import struct
import sys

import pytest
from PIL import Image

from labels.file_kinds import START_BYTES, can_decode_heic, is_image, recognize_kind
from tests.labels.attack_images import draw_noise, encode


def make_tiff(order: str, *entries: tuple[int, int, int]) -> bytes:
    """Returns the start of a TIFF file. `entries`: tag, type (3 for 16 bits, 4 for 32 bits) and value."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    packed = (
        struct.pack(order + "HHI", tag, kind, 1) + struct.pack(order + ("HH" if kind == 3 else "I"), *values)
        for tag, kind, value in entries
        for values in [(value, 0) if kind == 3 else (value,)]
    )
    return head + b"".join(packed) + bytes(4)


def make_brand(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", len(body) + 4) + body + b"\0\0\0\x08mdat"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "JPEG2000", "AVIF", "MPO", "PPM"])
def test_what_pillow_writes_is_an_image(kind: str) -> None:
    start = encode(draw_noise(), kind)[:START_BYTES]
    found = recognize_kind(start)
    assert found is not None
    assert found.pillow_format == ("JPEG" if kind == "MPO" else kind)
    assert is_image(start)


@pytest.mark.parametrize(
    ("start", "description"),
    [
        (make_brand(b"heic", b"mif1", b"heic"), "a HEIC image"),
        (make_brand(b"mif1", b"mif1", b"heic"), "a HEIC image"),
        (make_brand(b"mif1", b"mif1", b"avif"), "an AVIF image"),
        (make_brand(b"crx ", b"crx ", b"isom"), "a raw camera image"),
        (make_brand(b"isom", b"isom", b"avc1", b"mp41"), "a video"),
        (make_brand(b"qt  ", b"qt  "), "a video"),
        (make_brand(b"3gp4"), "a video"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "a video"),
        (b"\x1a\x45\xdf\xa3\x01\x00", "a video"),
        (make_tiff("<", (254, 4, 0), (50706, 4, 0x0401)), "a raw camera image"),  # DNG
        (make_tiff(">", (254, 4, 1), (330, 4, 200)), "a raw camera image"),  # NEF
        (make_tiff("<", (262, 3, 32803)), "a raw camera image"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a raw camera image"),  # CR2
        (make_tiff("<", (254, 4, 0), (330, 4, 200)), "a TIFF image"),  # with smaller versions
        (make_tiff(">", (262, 3, 2)), "a TIFF image"),
        (b"8BPS\x00\x01", "a Photoshop file"),
        (b"\xff\x0a\x00", "a JPEG XL image"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">', "an SVG drawing"),
        (b"<!-- made by hand -->\n<svg>", "an SVG drawing"),
        (b"\n<!DOCTYPE HTML><title>404</title>", "a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "an XML file"),
        (b'{"message": "Not Found"}', "a text or JSON file"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x00\x05\x16\x07\x00\x02", "a companion file of macOS"),
    ],
)
def test_other_kinds_are_named(start: bytes, description: str) -> None:
    kind = recognize_kind(start)
    assert kind is not None
    assert kind.description.startswith(description)


@pytest.mark.parametrize(
    "start",
    [b"", b"B", b"BM is how this text starts", b"P", b"P6", b"Photo", b"II*", b"MM\0*\xff\xff\xff\xff", b"\xff\xd8"],
)
def test_what_only_looks_like_an_image_at_first_is_not_one(start: bytes) -> None:
    assert recognize_kind(start) is None or start.startswith(b"MM")
    assert not is_image(start) or start.startswith(b"MM")


def test_heic_is_an_image_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    start = make_brand(b"heic", b"mif1", b"heic")
    assert is_image(start) is can_decode_heic()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    assert not is_image(start)


def test_a_deep_tiff_is_an_image() -> None:
    assert is_image(encode(Image.new("I;16", (5, 5)), "TIFF"))
