"""Recognizes what kind of file something is by its first bytes. Names and suffixes are often wrong."""

import re
import struct
from dataclasses import dataclass

START_BYTES = 4096
"""How many bytes of a file `recognize_kind` looks at. Fewer do, but raw camera images may then look like TIFF."""


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file.

    `description` is for messages: "this is {description}". `pillow_format` is Pillow's name of the decoder; None: no
    decoder of florist reads it. `advice` is how to get an image from it.
    """

    description: str
    pillow_format: str | None = None
    advice: str = ""


JPEG, PNG, GIF, BMP = (FileKind(f"a {name} image", name) for name in ("JPEG", "PNG", "GIF", "BMP"))
WEBP, TIFF = FileKind("a WebP image", "WEBP"), FileKind("a TIFF image", "TIFF")
JPEG_2000, AVIF = FileKind("a JPEG 2000 image", "JPEG2000"), FileKind("an AVIF image", "AVIF")
NETPBM = FileKind("a PPM, PGM or PBM image", "PPM")
HEIC = FileKind("a HEIC image", "HEIF")  # with the extra `heic`
RAW = FileKind("a raw camera image (DNG, NEF, CR2, ARW …)", advice="convert it to JPEG or TIFF")
SVG = FileKind("an SVG drawing", advice="render it to PNG")
VIDEO = FileKind("a video", advice="extract its frames as JPEG")
LFS_POINTER = FileKind("a pointer of Git LFS, not the file itself", advice="run `git lfs pull`")
_PHOTOSHOP = FileKind("a Photoshop file", advice="export it as PNG")
_WEB_PAGE = FileKind("a web page, perhaps an error message instead of the image")
_MACOS = FileKind("a companion file of macOS (AppleDouble), not the image itself")

# What the bytes at an offset mean. The first that fits counts.
_MAGIC: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\xff\xd8\xff", JPEG),
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"GIF87a", GIF),
    (0, b"GIF89a", GIF),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", JPEG_2000),
    (0, b"\xff\x4f\xff\x51", JPEG_2000),
    (0, b"8BPS", _PHOTOSHOP),
    (0, b"\xff\x0a", FileKind("a JPEG XL image", advice="convert it to JPEG")),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", FileKind("a JPEG XL image", advice="convert it to JPEG")),
    (0, b"II\xbc\x01", FileKind("a JPEG XR image", advice="convert it to JPEG")),
    (0, b"\x76\x2f\x31\x01", FileKind("an OpenEXR image", advice="convert it to PNG")),
    (0, b"#?R", FileKind("a Radiance HDR image", advice="convert it to PNG")),
    (128, b"DICM", FileKind("a DICOM file", advice="export its image as PNG")),
    (0, b"SIMPLE  =", FileKind("a FITS file", advice="export its image as PNG or TIFF")),
    (0, b"gimp xcf", FileKind("a GIMP file", advice="export it as PNG")),
    (0, b"DDS ", FileKind("a DDS texture", advice="convert it to PNG")),
    (0, b"qoif", FileKind("a QOI image", advice="convert it to PNG")),
    (0, b"\x00\x00\x01\x00", FileKind("an icon", advice="convert it to PNG")),
    (0, b"icns", FileKind("an icon", advice="convert it to PNG")),
    (0, b"AT&TFORM", FileKind("a DjVu document", advice="convert its pages to JPEG")),
    (0, b"%PDF", FileKind("a PDF", advice="convert its pages to JPEG")),
    (0, b"%!PS", FileKind("a PostScript file", advice="convert it to PNG")),
    (0, b"\xc5\xd0\xd3\xc6", FileKind("a PostScript file", advice="convert it to PNG")),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"IIU\x00", RAW),
    (0, b"FOVb", RAW),
    (0, b"\x00MRM", RAW),
    (0, b"\x1a\x45\xdf\xa3", VIDEO),
    (0, b"\x00\x00\x01\xba", VIDEO),
    (0, b"\x00\x00\x01\xb3", VIDEO),
    (0, b"FLV\x01", VIDEO),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO),
    (4, b"moov", VIDEO),
    (4, b"mdat", VIDEO),
    (0, b"OggS", FileKind("an Ogg file, audio or video")),
    (0, b"\x00\x05\x16\x07", _MACOS),
    (0, b"version https://git-lfs", LFS_POINTER),
    (0, b"PK\x03\x04", FileKind("a zip archive", advice="unpack it")),
    (0, b"\x1f\x8b", FileKind("a gzip file", advice="unpack it")),
    (0, b"\x93NUMPY", FileKind("a NumPy array", advice="save it as PNG")),
    (0, b"\x89HDF\r\n\x1a\n", FileKind("an HDF5 file", advice="export its images as PNG")),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # lengths of the header that follows "BM" and 12 bytes
# By the "brands" of ISO media files, which HEIC, AVIF and videos are.
_BRANDS: tuple[tuple[frozenset[bytes], FileKind], ...] = (
    (frozenset({b"avif", b"avis"}), AVIF),
    (frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}), HEIC),
    (frozenset({b"crx "}), RAW),
    (frozenset({b"mif1", b"msf1"}), HEIC),  # of any codec
)
_VIDEO_BRANDS = {b"isom", b"mp41", b"mp42", b"qt  "}  # videos may also contain images
_DNG_VERSION = 50706  # a tag
_CFA, _LINEAR_RAW = 32803, 34892  # values of PhotometricInterpretation that only raw images have
_MAX_ENTRIES = 200  # of a TIFF directory


def recognize_kind(start: bytes) -> FileKind | None:
    """Returns the kind of a file by its first bytes, of which START_BYTES are enough; None if it is unknown."""
    start = start[:START_BYTES]
    for offset, magic, kind in _MAGIC:
        if start.startswith(magic, offset):
            return kind
    if start[4:8] == b"ftyp":
        return _recognize_brand(start)
    if start[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return RAW if _is_raw(start) else TIFF
    if start[:4] == b"RIFF" and start[8:12] in (b"WEBP", b"AVI "):
        return WEBP if start[8:12] == b"WEBP" else VIDEO
    if start[:2] == b"BM" and start[14:18] in {struct.pack("<I", length) for length in _BMP_HEADERS}:
        return BMP
    if re.match(rb"P[1-6][\s#]", start):
        return NETPBM
    return _recognize_text(start)


def is_image(start: bytes) -> bool:
    """Returns whether florist decodes files that start like this."""
    kind = recognize_kind(start)
    return kind is not None and kind.pillow_format is not None and (kind is not HEIC or can_decode_heic())


def can_decode_heic() -> bool:
    """Returns whether the extra `heic` is installed. Registers its decoder with Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    pillow_heif.options.DECODE_THREADS = 1
    return True


def _recognize_brand(start: bytes) -> FileKind:
    length = min(max(int.from_bytes(start[:4], "big"), 16), 256)
    brands = {start[8:12], *(start[i : i + 4] for i in range(16, length, 4))}
    is_still = start[8:12] not in _VIDEO_BRANDS
    return next((kind for names, kind in _BRANDS if start[8:12] in names or (is_still and brands & names)), VIDEO)


def _is_raw(start: bytes) -> bool:
    """Returns whether a TIFF file is a raw camera image: its first image is a small preview, or sensor data."""
    order = "<" if start[:2] == b"II" else ">"
    if start[8:10] == b"CR" or len(start) < 10:
        return len(start) >= 10
    (offset,) = struct.unpack_from(order + "I", start, 4)
    if start[2:4] not in (b"*\x00", b"\x00*") or offset + 2 > len(start):
        return False
    (count,) = struct.unpack_from(order + "H", start, offset)
    tags: dict[int, int] = {}
    for at in range(offset + 2, min(offset + 2 + 12 * min(count, _MAX_ENTRIES), len(start) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", start, at)
        (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), start, at + 8)
    is_preview = bool(tags.get(254, 0) & 1) and 330 in tags  # NewSubfileType, SubIFDs
    return _DNG_VERSION in tags or is_preview or tags.get(262) in (_CFA, _LINEAR_RAW)


def _recognize_text(start: bytes) -> FileKind | None:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1024].lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in text:
        return SVG
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return _WEB_PAGE
    if text.startswith(b"<?xml"):
        return FileKind("an XML file, perhaps an error message instead of the image")
    if text.startswith((b"{", b"[")):
        return FileKind("a text or JSON file, perhaps an error message instead of the image")
    return None
