"""The names of images in an export: those of the source, unless the format or the disk cannot hold them."""

import io
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import Image

from labels.image_suffixes import SUFFIXES
from labels.images import IMAGE_FORMATS

# Text files with one name per line, XML and UTF-8 cannot hold these, and many tools read a backslash as a slash.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")
_WINDOWS = re.compile(r"[:*?\"<>|]|[. ](/|$)")  # what Windows, and disks made for it, cannot hold
_MAX_PART = 255  # bytes of one part of a path: the limit of most file systems
_MAX_PATH = 1024  # bytes of a path in the export
_NUMBER_ROOM = 16  # bytes for the number of a repeated name, and for a longer suffix of the labels file
_LONGEST_SUFFIX = 20  # characters; what follows the last dot of a longer name is no suffix
_FORMAT_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif", "JPEG2000": ".jp2", "MPO": ".jpg"}  # others: the format's name

NOT_ON_WINDOWS = "names that Windows does not allow"
DIFFER_IN_CASE = "names that are one file on Windows and macOS (they differ in case or Unicode form)"


class ImageNames:
    """Chooses the names of the images of one export.

    A name stays as it is if the format and the disk can hold it. Otherwise, and if an earlier image has the same name
    or the same labels file, it is changed.
    """

    def __init__(
        self,
        folder: Path,
        get_label_path: Callable[[str], str | None],
        to_holdable: Callable[[str], str],
        images_folder: str = "",
    ) -> None:
        """`folder`: on the disk that is written to. `get_label_path` returns the labels file of an image.

        `to_holdable` replaces what the format cannot hold in a name. `images_folder` has the images, and readers look
        for a name beside it first: images/a.jpg must not be the name of images/images/a.jpg if there is an a.jpg.
        """
        self._images_folder = images_folder
        self._get_label_path, self._to_holdable = get_label_path, to_holdable
        self._allows_all = _can_write(folder, '.a:*?"<>|. ')
        self._is_case_sensitive = not _is_same_file(folder, ".florist-case", ".FLORIST-CASE")
        self._taken = set[int]()  # hashes of paths: 60 bytes for each image
        self._folded = set[int]()

    def choose(self, name: str) -> tuple[str, list[str]]:
        """Returns the name for an image, and what other systems cannot hold or tell apart about it."""
        path = candidate = self._make_writable(name)
        n = 1
        while self._taken & (keys := self._hash_paths(candidate)):
            n += 1
            folder, slash, last = path.rpartition("/")
            stem, suffix = split_suffix(_shorten(last, _MAX_PART - _NUMBER_ROOM))
            candidate = f"{folder}{slash}{stem}-{n}{suffix}"
        self._taken |= keys
        doubts = [NOT_ON_WINDOWS] if _WINDOWS.search(candidate) else []
        if self._is_case_sensitive:
            folded = self._hash_paths(fold_name(candidate))
            if self._folded & folded:
                doubts.append(DIFFER_IN_CASE)
            self._folded |= folded
        return candidate, doubts

    def _hash_paths(self, name: str) -> set[int]:
        """Returns hashes of the paths of an image and of its labels."""
        name = name if self._is_case_sensitive else fold_name(name)
        label_path = self._get_label_path(name)
        hashes = {hash(name)} if label_path is None else {hash(name), hash((label_path,))}
        return hashes | {hash(f"{self._images_folder}/{name}")} if self._images_folder else hashes

    def _make_writable(self, name: str) -> str:
        """Returns a relative path that stays inside its folder."""
        relative = [part for part in _UNWRITABLE.sub("_", name).split("/") if part not in ("", ".", "..")]
        parts = self._to_holdable("/".join(relative)).split("/")
        if not self._allows_all:
            parts = [re.sub(r"[:*?\"<>|]", "_", part).rstrip(". ") for part in parts]
        # Most readers ignore files and folders with a leading dot.
        parts = ["_" * part.startswith(".") + part for part in parts if part] or ["_"]
        label_path = self._get_label_path(parts[-1]) or ""
        longer = max(len(label_path.rpartition("/")[2]) - len(parts[-1]), 0)  # .json is longer than .jpg
        parts = [*(_shorten(part, _MAX_PART) for part in parts[:-1]), _shorten(parts[-1], _MAX_PART - longer)]
        path = "/".join(parts)
        return path if len(path.encode()) <= _MAX_PATH else parts[-1]


def split_suffix(path: str) -> tuple[str, str]:
    """Splits a path before its last dot, as YOLO's readers do. A dot at the start of a file's name begins no suffix."""
    stem, dot, suffix = path.rpartition(".")
    if not dot or "/" in suffix or not stem.rpartition("/")[2] or len(suffix) > _LONGEST_SUFFIX:
        return path, ""
    return stem, dot + suffix


def replace_suffix(path: str, suffix: str) -> str:
    """Returns the path with another suffix."""
    return split_suffix(path)[0] + suffix


def has_image_suffix(name: str) -> bool:
    """Returns whether a name ends in the suffix of an image that can be read."""
    return split_suffix(name)[1].lower() in SUFFIXES


def add_suffix(name: str, data: bytes) -> str:
    """Returns the name of an image file, with the suffix of its content if it has no image's suffix.

    An image in a table has a row, but no file name, and most readers find images by their suffix.
    """
    if has_image_suffix(name):
        return name
    with suppress(Exception), Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
        return name + _FORMAT_SUFFIXES.get(opened.format or "", f".{opened.format}".lower())
    return name


def remove_images_folders(name: str) -> str:
    """Returns a name without folders called `images`, which belong to the layout of a dataset."""
    *folders, last = name.split("/")
    return "/".join([*(folder for folder in folders if folder != "images"), last])


def fold_name(name: str) -> str:
    """Returns a form that is the same for all names that are one file on Windows and macOS."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _shorten(part: str, size: int) -> str:
    """Returns a part of a path with at most `size` bytes. Keeps the suffix."""
    if len(part.encode()) <= size:
        return part
    stem, suffix = split_suffix(part)
    return stem.encode()[: size - len(suffix.encode())].decode(errors="ignore") + suffix


def _can_write(folder: Path, name: str) -> bool:
    path = folder / name
    try:
        path.touch()
        path.unlink()
    except OSError:
        return False
    return True


def _is_same_file(folder: Path, name: str, other: str) -> bool:
    path = folder / name
    path.touch()
    try:
        return (folder / other).exists()
    finally:
        path.unlink()
