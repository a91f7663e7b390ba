"""Names of images: which paths are images, and which names are safe to write."""

import re

from labels.image_suffixes import SUFFIXES, is_image_suffix

SUFFIX_LIST = ", ".join(SUFFIXES)
MAX_PART, _MAX_NAME = 255, 1024  # bytes: the limit of file systems for a part of a path, and ours for a whole path
_HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")  # a part that begins with a dot and is neither . nor ..
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # characters that UTF-8 or PostgreSQL cannot store


def is_hidden(name: str) -> bool:
    """Returns whether a part of a path begins with a dot."""
    return _HIDDEN.search(name) is not None


def is_image_name(name: str) -> bool:
    """Returns whether a path has the suffix of an image, also of a kind that cannot be decoded, and no hidden part."""
    return is_image_suffix(name) is True and not is_hidden(name)


def may_be_image(name: str) -> bool:
    """Returns whether the suffix of a path says nothing, so that only the first bytes of the file tell."""
    return is_image_suffix(name) is None and not is_hidden(name)


def split_suffix(name: str) -> tuple[str, str]:
    """Splits a path before its suffix. A dot at the start of a file's name does not begin a suffix."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if dot > name.rfind("/") + 1 else (name, "")


def to_safe_name(name: str) -> str:
    """Returns a relative path that every file system accepts, and that stays inside the folder it is written to."""
    parts = [part for part in _UNWRITABLE.sub("\ufffd", name).split("/") if part not in ("", ".", "..")]
    if parts and re.fullmatch("[A-Za-z]:", parts[0]):
        del parts[0]
    name = "/".join(map(_shorten, parts))
    return name if 0 < len(name.encode()) <= _MAX_NAME else _shorten(parts[-1]) if parts else "unnamed"


def _shorten(part: str) -> str:
    if len(part.encode()) <= MAX_PART:
        return part
    stem, suffix = split_suffix(part)
    suffix = suffix if len(suffix) <= 8 else ""
    return stem.encode()[: MAX_PART - 40].decode(errors="ignore") + suffix
