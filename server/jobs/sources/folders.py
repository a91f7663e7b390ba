"""The images of a folder, or those that match a glob pattern."""

import heapq
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

from labels.file_kinds import START_BYTES
from labels.writing.export_folder import MARKER
from server.jobs.sources import tables
from server.jobs.sources.failures import explain_error, raise_source_error
from server.jobs.sources.listing import ImageListing, NameBudget
from server.jobs.sources.local_files import open_local_file, open_local_folder
from server.jobs.sources.names import SUFFIX_LIST, is_image_name, may_be_image
from server.jobs.sources.path_patterns import PathPattern, is_pattern
from server.jobs.sources.reading import read_image
from server.jobs.sources.source import AccessCheck, ImageSource, Reserve, SourceError, SourceImageError

_SHOWN_EXPORTS = 5
_STAMP_BYTES = 16  # memory of the size and the time of a file


class FolderSource(ImageSource):
    """The images of a folder and its subfolders, sorted by name, without hidden files.

    `tables` has the Parquet and Arrow files in the folder, as TableSource takes them.
    """

    def __init__(
        self,
        root: Path,
        exclude: Path | None = None,
        is_allowed: AccessCheck | None = None,
        pattern: PathPattern | None = None,
    ) -> None:
        """`exclude` is a folder that is left out. `pattern` matches paths below `root`."""
        self._root, self._is_allowed = str(root.absolute()), is_allowed
        self._paths: dict[int, str] = {}  # by position, if they differ from the names
        listing, budget, unlistable = ImageListing(), NameBudget(), dict[str, SourceImageError]()
        exports: list[str] = []
        self.tables: list[tuple[str, str, int]] = []
        self._sizes, self._times = array("q"), array("q")  # bytes; time of the last change in nanoseconds; -1: unknown
        files: list[tuple[str, int, int]] = []
        depth = pattern.depth if pattern else None
        for path, size, time in _walk(self._root, exclude, is_allowed, depth, unlistable, exports):
            if path in unlistable or (is_image_name(path) and (pattern is None or pattern.match(path))):
                budget.add(path)
                files.append((path, size, time))
            elif path.endswith(tables.SUFFIXES):
                self.tables.append((tables.to_table_name(path), f"{self._root}/{path}", size))
            elif pattern is not None and not pattern.match(path):
                continue
            elif not may_be_image(path):
                listing.set_aside(path)
            elif listing.check_start(path, self._read_start(path)):
                budget.add(path)
                files.append((path, size, time))
        files.sort()
        self.tables.sort()
        if exports:
            shown = ", ".join(sorted(exports)[:_SHOWN_EXPORTS]) + (", …" if len(exports) > _SHOWN_EXPORTS else "")
            what = "folder is an export" if len(exports) == 1 else "folders are exports"
            listing.add_note(f"{len(exports):,} {what} of florist, and left out with its images: {shown}")
        for path, size, time in files:
            listing.add(path, size, unlistable.get(path), extra=_STAMP_BYTES)
            self._sizes.append(size)
            self._times.append(time)
            if listing.names[-1] != path:
                self._paths[len(listing.names) - 1] = path
        super().__init__(listing)

    def get_stamp(self, position: int) -> str:
        size, time = self._sizes[position], self._times[position]
        return f"{size}-{time}" if size >= 0 else ""

    def _read_start(self, path: str) -> bytes:
        try:
            with open_local_file(f"{self._root}/{path}", self._is_allowed) as file:
                return file.read(START_BYTES)
        except OSError:
            return b""

    def find_file(self, position: int) -> Path | None:
        return Path(self._root, self._paths.get(position, self.names[position]))

    def _read(self, position: int, reserve: Reserve) -> bytes:
        return read_image(str(self.find_file(position)), self._is_allowed, reserve)


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
        pattern = PathPattern(rest)
    except (ValueError, re.error) as error:
        raise SourceError(f"the pattern {text} is not valid: {error}") from error
    source = FolderSource(root, exclude, is_allowed, pattern)
    if not len(source):
        raise SourceError(
            f"the pattern {text} matches no image; * matches within one folder, ** across folders (folder/**/*.jpg), "
            f"and images end in {SUFFIX_LIST}"
        )
    return source


def _walk(
    root: str, exclude: Path | None, is_allowed: AccessCheck | None, depth: int | None,
    unlistable: dict[str, SourceImageError], exports: list[str],
) -> Iterator[tuple[str, int, int]]:  # fmt: skip
    """Yields the paths below `root`, with the sizes in bytes and the times of the last change in nanoseconds (-1:
    unknown), of all files, and of folders that cannot be listed. Adds the latter to `unlistable`, and folders that
    florist has exported, which it does not enter, to `exports`.

    Follows links to allowed folders, but enters each folder only once, and by its own path if it is below `root`.
    Therefore loops of links end, and no image is listed twice. A link to a folder that contains `root` is not followed.
    """
    real_root = os.path.realpath(root)
    entered = {_get_identity(exclude.stat())} if exclude is not None and exclude.is_dir() else set()
    if _get_identity(Path(root).stat()) in entered:
        raise SourceError(f"the output folder {exclude} is the folder of the images: choose another output folder")
    folders, links = [""], list[str]()
    while folders or links:
        folder = folders.pop() if folders else heapq.heappop(links)
        try:
            descriptor = open_local_folder(f"{root}/{folder}".rstrip("/") or "/", is_allowed)
        except OSError as error:
            if not folder:
                raise_source_error(root, error)
            reason, fault = explain_error(error)
            path = folder.rstrip("/")
            unlistable[path] = SourceImageError(f"this folder cannot be listed: {reason}", fault)
            yield path, -1, -1
            continue
        try:
            if (identity := _get_identity(os.fstat(descriptor))) in entered:
                continue
            entered.add(identity)
            if folder and _has_marker(descriptor):
                exports.append(folder.rstrip("/"))
                continue
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    path = folder + entry.name
                    if not _is_folder(entry):
                        if entry.is_symlink() or entry.is_file():
                            yield path, *_get_size_and_time(entry)
                    elif depth is not None and path.count("/") + 1 >= depth:
                        continue
                    elif not entry.is_symlink():
                        folders.append(path + "/")
                    elif not _contains(os.path.realpath(f"{root}/{path}"), real_root):
                        heapq.heappush(links, path + "/")
        finally:
            os.close(descriptor)


def _has_marker(folder: int) -> bool:
    """Returns whether an open folder is an export of florist: a dataset or drawn images."""
    try:
        os.stat(MARKER, dir_fd=folder)
    except OSError:
        return False
    return True


def _get_identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _contains(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


def _get_size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
