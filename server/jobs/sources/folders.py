"""A folder of pictures, or those of it that a pattern names."""

import heapq
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fsspec.utils import glob_translate

from server.jobs.sources import addresses, tables
from server.jobs.sources.source import SUFFIXES, Allowed, ImageErrorKind, SourceImageError, ImageListing, ImageSource, SourceError, is_picture

ENDINGS = ", ".join(sorted(SUFFIXES))
_WILD = re.compile(r"[*?\[]")


class FolderSource(ImageSource):
    """The pictures of a folder and its subfolders, sorted by name; hidden ones and those of `besides` left out.
    `tables`: the paths of Parquet and Arrow files there."""

    def __init__(
        self,
        root: Path,
        besides: Path | None = None,
        allowed: Allowed | None = None,
        pattern: re.Pattern[str] | None = None,
        depth: int | None = None,
    ) -> None:
        self._root, self._allowed = str(root.absolute()), allowed
        self._paths: dict[int, str] = {}  # where they are other than the names
        listing, closed = ImageListing(), dict[str, SourceImageError]()
        self.tables: list[str] = []
        found: list[str] = []
        for path in _walk(self._root, besides, depth, closed):
            if path in closed or (is_picture(path) and (pattern is None or pattern.match(path))):
                found.append(path)
            elif path.endswith(tables.SUFFIXES):
                self.tables.append(path)
        found.sort()
        self.tables.sort()
        for path in found:
            if path in closed:
                listing.add(path, fault=closed[path])
                continue
            listing.add(path, _size(f"{self._root}/{path}"))
            if listing.names[-1] != path:
                self._paths[len(listing.names) - 1] = path
        super().__init__(listing)

    def _read(self, position: int) -> bytes:
        path = self._paths.get(position, self.names[position])
        return addresses.read(f"{self._root}/{path}", self._allowed)


def is_pattern(text: str) -> bool:
    return _WILD.search(text) is not None


def open_pattern(text: str, besides: Path | None = None, allowed: Allowed | None = None) -> ImageSource:
    """The pictures that a pattern of *, ?, [] and ** names, by their paths below its last folder without any."""
    parts = Path(text).parts
    fixed = next(i for i, part in enumerate(parts) if is_pattern(part))
    root, rest = Path(*parts[:fixed]), parts[fixed:]
    if not root.is_dir():
        raise SourceError(f"there is no folder {root}, in which {text} would look")
    try:
        pattern = re.compile(glob_translate("/".join(rest)))
    except (ValueError, re.error) as error:
        raise SourceError(f"the pattern {text} cannot be read: {error}") from error
    source = FolderSource(root, besides, allowed, pattern, None if "**" in rest else len(rest))
    if not len(source):
        raise SourceError(
            f"the pattern {text} matches no picture; * stays within a folder, ** crosses them (folder/**/*.jpg), and "
            f"pictures' names end in {ENDINGS}"
        )
    return source


def _walk(root: str, besides: Path | None, depth: int | None, closed: dict[str, SourceImageError]) -> Iterator[str]:
    """The paths below `root` of all files, and of folders that cannot be listed, which go to `closed` with the reason.

    Links are followed, but each folder is entered once, and by its own path where it has one below `root`: so no loop
    of links is endless, and no picture listed twice. A link to a folder that holds `root` is not followed.
    """
    real_root = os.path.realpath(root)
    entered = {_identity(str(besides))} if besides is not None and besides.is_dir() else set()
    if _identity(root) in entered:
        raise SourceError(f"the output folder {besides} is where the pictures are: choose another for the output")
    folders, links = [""], list[str]()
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        try:
            if (identity := _identity(f"{root}/{folder}")) in entered:
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
                    elif not _holds(os.path.realpath(entry.path), real_root):
                        heapq.heappush(links, path + "/")
        except OSError as error:
            if not folder:
                addresses.fail(root, error)
            path = folder.rstrip("/")
            closed[path] = SourceImageError(f"this folder cannot be listed: {error.strerror}", ImageErrorKind.DENIED)
            yield path


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _holds(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
