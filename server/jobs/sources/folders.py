"""The images of a folder, or those that match a glob pattern."""

import heapq
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fsspec.utils import glob_translate

from server.jobs.sources import tables
from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.names import SUFFIX_LIST, is_image_name
from server.jobs.sources.reading import read_image
from server.jobs.sources.source import AccessCheck, ImageSource, SourceError, SourceImageError, SourceImageFault

_WILDCARD = re.compile(r"[*?\[]")


class FolderSource(ImageSource):
    """The images of a folder and its subfolders, sorted by name, without hidden files.

    `tables` has the paths of Parquet and Arrow files in the folder.
    """

    def __init__(
        self,
        root: Path,
        exclude: Path | None = None,
        is_allowed: AccessCheck | None = None,
        pattern: re.Pattern[str] | None = None,
        depth: int | None = None,
    ) -> None:
        """`exclude` is a folder that is left out. `pattern` matches paths below `root`. `depth` is the maximum number
        of parts of a path."""
        self._root, self._is_allowed = str(root.absolute()), is_allowed
        self._paths: dict[int, str] = {}  # by position, if they differ from the names
        listing, unlistable = ImageListing(), dict[str, SourceImageError]()
        self.tables: list[str] = []
        paths: list[str] = []
        for path in _walk(self._root, exclude, depth, unlistable):
            if path in unlistable or (is_image_name(path) and (pattern is None or pattern.match(path))):
                paths.append(path)
            elif path.endswith(tables.SUFFIXES):
                self.tables.append(path)
        paths.sort()
        self.tables.sort()
        for path in paths:
            if path in unlistable:
                listing.add(path, fault=unlistable[path])
                continue
            listing.add(path, _get_size(f"{self._root}/{path}"))
            if listing.names[-1] != path:
                self._paths[len(listing.names) - 1] = path
        super().__init__(listing)

    def _read(self, position: int) -> bytes:
        path = self._paths.get(position, self.names[position])
        return read_image(f"{self._root}/{path}", self._is_allowed)


def is_pattern(text: str) -> bool:
    """Returns whether a path contains a wildcard."""
    return _WILDCARD.search(text) is not None


def open_pattern(text: str, exclude: Path | None = None, is_allowed: AccessCheck | None = None) -> ImageSource:
    """Opens the images that match a pattern with *, ?, [] and **. Raises SourceError.

    Their names are relative to the last folder before the first wildcard.
    """
    parts = Path(text).parts
    first = next(i for i, part in enumerate(parts) if is_pattern(part))
    root, rest = Path(*parts[:first]), parts[first:]
    if not root.is_dir():
        raise SourceError(f"there is no folder {root}, where the pattern {text} begins")
    try:
        pattern = re.compile(glob_translate("/".join(rest)))
    except (ValueError, re.error) as error:
        raise SourceError(f"the pattern {text} is not valid: {error}") from error
    source = FolderSource(root, exclude, is_allowed, pattern, None if "**" in rest else len(rest))
    if not len(source):
        raise SourceError(
            f"the pattern {text} matches no image; * matches within one folder, ** across folders (folder/**/*.jpg), "
            f"and images end in {SUFFIX_LIST}"
        )
    return source


def _walk(root: str, exclude: Path | None, depth: int | None, unlistable: dict[str, SourceImageError]) -> Iterator[str]:
    """Yields the paths below `root` of all files, and of folders that cannot be listed. Adds the latter to
    `unlistable`.

    Follows links, but enters each folder only once, and by its own path if it is below `root`. Therefore loops of links
    end, and no image is listed twice. A link to a folder that contains `root` is not followed.
    """
    real_root = os.path.realpath(root)
    entered = {_get_identity(str(exclude))} if exclude is not None and exclude.is_dir() else set()
    if _get_identity(root) in entered:
        raise SourceError(f"the output folder {exclude} is the folder of the images: choose another output folder")
    folders, links = [""], list[str]()
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        try:
            if (identity := _get_identity(f"{root}/{folder}")) in entered:
                continue
            entered.add(identity)
            with os.scandir(f"{root}/{folder}") as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = folder + entry.name
                    if not _is_folder(entry):
                        if entry.is_symlink() or entry.is_file():
                            yield path
                    elif depth is not None and path.count("/") + 1 >= depth:
                        continue
                    elif not entry.is_symlink():
                        folders.append(path + "/")
                    elif not _contains(os.path.realpath(entry.path), real_root):
                        heapq.heappush(links, path + "/")
        except OSError as error:
            if not folder:
                raise_source_error(root, error)
            path = folder.rstrip("/")
            reason = f"this folder cannot be listed: {error.strerror}"
            unlistable[path] = SourceImageError(reason, SourceImageFault.DENIED)
            yield path


def _get_identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _contains(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


def _get_size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
