"""Suffixes of files: which are images, which may be images, and which are something else.

Suffixes are a hint: `file_kinds` recognizes files by content.
"""

import posixpath

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpf", ".jpx", ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
"""Suffixes of images that can be read, with the extras that read more formats."""

UNREADABLE_SUFFIXES = (
    ".dng", ".nef", ".arw", ".pef", ".srw", ".cr2", ".cr3", ".3fr", ".orf", ".rw2", ".raf", ".x3f", ".raw", ".psd",
    ".psb", ".xcf", ".jxl", ".exr", ".hdr", ".eps", ".ico", ".dds", ".dcm", ".fits", ".tga", ".pcx", ".svg",
)  # fmt: skip
"""Suffixes of images that cannot be read. They are named with the reason, not passed over."""

OTHER_FILE_SUFFIXES = (
    ".txt", ".json", ".jsonl", ".ndjson", ".xml", ".yaml", ".yml", ".csv", ".tsv", ".md", ".html", ".names", ".data",
    ".labels", ".cfg", ".ini", ".toml", ".log", ".py", ".ipynb", ".parquet", ".arrow", ".zip", ".tar", ".gz", ".tgz",
    ".npy", ".npz", ".pt", ".pth", ".onnx", ".safetensors", ".db", ".sqlite", ".cache", ".mp4", ".mov", ".avi", ".mkv",
    ".webm", ".mp3", ".wav", ".pdf",
)  # fmt: skip
"""Suffixes of files that are no images, and that need not be opened to know it."""


_IMAGES = frozenset((*SUFFIXES, *UNREADABLE_SUFFIXES))
_OTHERS = frozenset(OTHER_FILE_SUFFIXES)


def is_image_suffix(name: str) -> bool | None:
    """Returns whether a path ends as an image does; None if its suffix says nothing."""
    suffix = posixpath.splitext(name)[1].lower()
    return True if suffix in _IMAGES else False if suffix in _OTHERS else None
