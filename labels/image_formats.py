"""Kinds of image files, recognized by their first bytes. Suffixes only help where bytes are too costly to read."""

import posixpath

HEAD = 512
"""The number of bytes that `recognize_format` needs."""

_SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),  # also MPO, which is a JPEG with more JPEGs behind it
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"8BPS", "PSD"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"gimp xcf ", "XCF"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"%!PS-Adobe", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"DDS ", "DDS"),
    (0, b"SIMPLE  =", "FITS"),
    (128, b"DICM", "DICOM"),
    (0, b"FUJIFILMCCD-RAW", "RAF"),
    (0, b"FOVb", "X3F"),
    (0, b"IIRO", "ORF"),
    (0, b"IIU\x00", "RW2"),
    (8, b"CR\x02\x00", "CR2"),
)
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
# Camera files that begin as a TIFF file does.
_TIFF_SUFFIXES = {f".{kind.lower()}": kind for kind in ("DNG", "NEF", "ARW", "PEF", "SRW", "CR2", "3FR")}

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
"""Suffixes of images that can be read, with the extras that read more formats."""

OTHER_SUFFIXES = (
    *_TIFF_SUFFIXES, ".cr3", ".orf", ".rw2", ".raf", ".x3f", ".raw", ".psd", ".psb", ".xcf", ".jxl", ".exr", ".hdr",
    ".eps", ".ico", ".dds", ".dcm", ".fits", ".tga", ".pcx", ".svg",
)  # fmt: skip
"""Suffixes of images that cannot be read. They are named with the reason, not passed over."""

TEXT_SUFFIXES = (
    ".txt", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".csv", ".tsv", ".md", ".html", ".names", ".data",
    ".labels", ".cfg", ".ini", ".toml", ".log", ".py", ".ipynb", ".parquet", ".arrow", ".zip", ".tar", ".gz", ".tgz",
    ".npy", ".npz", ".pt", ".pth", ".onnx", ".safetensors", ".db", ".sqlite", ".cache", ".mp4", ".mov", ".avi", ".mkv",
    ".webm", ".mp3", ".wav", ".pdf",
)  # fmt: skip
"""Suffixes of files that are no images, and that need not be opened to know it."""


def recognize_format(head: bytes, name: str = "") -> str | None:
    """Returns the name of an image's format by the first `HEAD` bytes of its file; None if it is no image.

    `name` tells camera files from TIFF, as which they begin. A JPEG is a JPEG under any suffix; MPO counts as JPEG.
    """
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return None if kind == "BMP" and not _is_bmp(head) else kind
    if head.startswith(_TIFF):
        return _TIFF_SUFFIXES.get(get_suffix(name), "TIFF")
    if head[4:8] == b"ftyp":
        return _recognize_brand(head)
    is_ppm = head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()
    return "PPM" if is_ppm and head[3:].lstrip()[:1] in b"#0123456789" else None


def _is_bmp(head: bytes) -> bool:
    """Two letters are not enough: the size of the next header follows at byte 14."""
    return int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)


def _recognize_brand(head: bytes) -> str | None:
    """Returns the format of an ISO base media file, whose brands say what is in it."""
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, min(int.from_bytes(head[:4]), 64), 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if head[8:12] == b"crx ":
        return "CR3"
    return "HEIC" if brands & set(_HEIC_BRANDS) else None


def get_suffix(name: str) -> str:
    """Returns the suffix of a path, in lower case."""
    return posixpath.splitext(name)[1].lower()


def is_image_suffix(name: str) -> bool | None:
    """Returns whether a path ends as an image does; None if its suffix says nothing."""
    suffix = get_suffix(name)
    if suffix in SUFFIXES or suffix in OTHER_SUFFIXES:
        return True
    return False if suffix in TEXT_SUFFIXES else None
