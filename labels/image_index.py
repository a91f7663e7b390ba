"""The image files below a folder, by their names."""

import os
import posixpath
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from labels.file_kinds import START_BYTES, recognize_kind
from labels.image_folders import is_label_folder
from labels.image_suffixes import is_image_suffix
from labels.regular_files import open_regular_file
from labels.writing.export_folder import MARKER

MAX_INDEXED_FILES = 500_000
"""Files below a folder in which moved images are looked for."""


class ImageNotFoundError(FileNotFoundError):
    """No file fits a name, or several do."""


class SeveralImagesError(ImageNotFoundError):
    """Several files fit a name. The message names them, relative to the dataset."""


class ImageIndex:
    """The files below a folder that may be images, by their names and by their names without suffix."""

    def __init__(
        self, folder: Path, exclude: Path | None = None, is_allowed: Callable[[str], bool] | None = None
    ) -> None:
        """Leaves out the folder `exclude`, and folders that `is_allowed` does not accept by their resolved paths."""
        self._folder = folder
        self._names: dict[str, list[str]] = {}
        self._stems: dict[str, list[str]] = {}
        self._folders: dict[str, dict[str, None]] = {}
        self._is_too_large = False
        for count, path in enumerate(_iter_files(str(folder), exclude, is_allowed)):
            if count >= MAX_INDEXED_FILES:
                self._is_too_large = True
                return
            parent, _, name = path.rpartition("/")
            last = fold_name(name)
            if parent:
                self._folders.setdefault(fold_name(parent.rpartition("/")[2]), {})[parent] = None
            self._names.setdefault(last, []).append(path)
            self._stems.setdefault(posixpath.splitext(last)[0], []).append(path)

    def find(self, last: str, *, by_stem: bool) -> Iterator[Path]:
        """Yields the files with a name, or with any suffix instead of the name's own.

        Raises ImageNotFoundError if there are too many files.
        """
        if self._is_too_large:
            raise ImageNotFoundError(
                f"there are more than {MAX_INDEXED_FILES:,} files below {self._folder}, too many to look for images "
                "that are not where the dataset says: correct their paths"
            )
        last = fold_name(last)
        # What follows the last dot of a name without a suffix is not a suffix.
        keys = dict.fromkeys((last, posixpath.splitext(last)[0]) if by_stem and is_image_suffix(last) else (last,))
        for key in keys:
            yield from (self._folder / path for path in (self._stems if by_stem else self._names).get(key, ()))

    def find_folders(self, wanted: Sequence[str]) -> list[Path]:
        """Returns the folders with images whose paths end in the folded names `wanted`."""
        paths = self._folders.get(wanted[-1], ())
        return [
            self._folder / path
            for path in paths
            if count_shared([fold_name(part) for part in path.split("/")], wanted) == len(wanted)
        ]


def list_image_files(folder: Path, *, skip_labels: bool = False) -> list[Path]:
    """Returns the images in a folder and its subfolders, sorted, without hidden files. They are recognized by content
    if their suffixes say nothing; images that cannot be read are among them.

    With `skip_labels`, folders are left out that have labels, masks or thumbnails by their names.
    """
    paths = (folder / path for path in _iter_files(str(folder), skip_labels=skip_labels))
    return sorted(path for path in paths if is_image_file(path))


def _iter_files(
    root: str,
    exclude: Path | None = None,
    is_allowed: Callable[[str], bool] | None = None,
    *,
    skip_labels: bool = True,
) -> Iterator[str]:
    """Yields paths below `root` that may be images, without hidden files and exports of florist.

    Follows links to folders, but enters each folder once.
    """
    entered = set[tuple[int, int]]()
    if exclude is not None:
        with suppress(OSError):
            status = exclude.stat()
            entered.add((status.st_dev, status.st_ino))
    folders, links = [""], list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop()
        with suppress(OSError):
            if is_allowed is not None and not is_allowed(os.path.realpath(f"{root}/{folder}")):
                continue
            status = Path(root, folder).stat()
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            if folder and Path(root, folder, MARKER).exists():
                continue
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    if entry.is_dir():
                        if not (skip_labels and is_label_folder(entry.name)):
                            (links if entry.is_symlink() else folders).append(f"{folder}{entry.name}/")
                    elif is_image_suffix(entry.name) is not False:
                        yield folder + entry.name


def is_image_file(path: Path) -> bool:
    """Returns whether a file is an image: by its suffix, and without a suffix that says so, by its first bytes."""
    by_suffix = is_image_suffix(path.name)
    if by_suffix is not None:
        return by_suffix
    with suppress(OSError), open_regular_file(path) as file:
        kind = recognize_kind(file.read(START_BYTES))
        return kind is not None and kind.pillow_format is not None
    return False


def count_shared(own: Sequence[str], wanted: Sequence[str]) -> int:
    """Returns the number of folders that two paths share at their ends."""
    count = 0
    for one, other in zip(reversed(own), reversed(wanted), strict=False):
        if one != other:
            break
        count += 1
    return count


def normalize_name(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def fold_name(name: str) -> str:
    """Returns the form that all spellings of a name share."""
    return normalize_name(urllib.parse.unquote(name) if "%" in name else name).casefold()
