"""The images that clients have uploaded: files, and zip and tar archives that are read in place.

An upload is a folder with a part for each request that added to it, in their order. A part has the folders `files` and
`archives`.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from server.jobs.sources.folders import FolderSource
from server.jobs.sources.listing import ImageListing
from server.jobs.sources.permissions import allow_within
from server.jobs.sources.source import ImageSource, Reserve, SourceError
from server.jobs.sources.tars import TarSource
from server.jobs.sources.zips import ZipSource

UPLOAD_PREFIX = "upload:"
FILES, ARCHIVES = "files", "archives"
_ZIP = b"PK\3\4", b"PK\5\6"
_GZIP = b"\x1f\x8b"


class UploadSource(ImageSource):
    """The images of an upload. Those of a part that is added later come last, so that all others keep their names."""

    def __init__(self, parts: Sequence[Path]) -> None:
        """Raises SourceError."""
        self._children: list[ImageSource] = []
        self._starts: list[int] = []  # position of each child's first image
        with ExitStack() as stack:
            for part in parts:
                for child in _open_part(part):
                    self._children.append(stack.enter_context(child))
            listing = self._list()
            stack.pop_all()
        super().__init__(listing)
        # The names alone do not change with the files.
        prints = "".join(child.fingerprint for child in self._children)
        self.fingerprint = hashlib.blake2b(prints.encode(), digest_size=16).hexdigest()

    def close(self) -> None:
        for child in self._children:
            child.close()

    def get_stamp(self, position: int) -> str:
        child, at = self._find_child(position)
        return child.get_stamp(at)

    def _list(self) -> ImageListing:
        listing = ImageListing()
        for child in self._children:
            self._starts.append(len(listing.names))
            for name in child.names:
                listing.add(name)
            for note in child.notes:
                listing.add_note(note)
            if isinstance(child, FolderSource) and child.tables:
                listing.add_note(f"{len(child.tables):,} Parquet or Arrow files are set aside: uploads are of images")
        return listing

    def _find_child(self, position: int) -> tuple[ImageSource, int]:
        number = bisect_right(self._starts, position) - 1
        return self._children[number], position - self._starts[number]

    def _read(self, position: int, reserve: Reserve) -> bytes:
        child, at = self._find_child(position)
        return child[at].read(reserve)


def list_parts(folder: Path) -> list[Path]:
    """Returns the folders of an upload's parts, oldest first."""
    return sorted((part for part in folder.iterdir() if part.name.isdigit()), key=lambda part: int(part.name))


def is_archive(start: bytes) -> bool:
    """Returns whether a file is read as an archive, by its first 512 bytes."""
    return start.startswith((*_ZIP, _GZIP)) or start[257:262] == b"ustar"


def open_archive(path: Path) -> ImageSource:
    """Opens an archive. Raises SourceError."""
    is_allowed = allow_within([str(path)])
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(_ZIP):
        return ZipSource(str(path), is_allowed)
    return TarSource(str(path), gzipped=start.startswith(_GZIP), is_allowed=is_allowed)


def _open_part(part: Path) -> list[ImageSource]:
    with ExitStack() as stack:
        sources: list[ImageSource] = []
        try:
            if (files := part / FILES).is_dir():
                sources.append(stack.enter_context(FolderSource(files, is_allowed=allow_within([str(files)]))))
            if (archives := part / ARCHIVES).is_dir():
                sources += [stack.enter_context(open_archive(path)) for path in sorted(archives.iterdir())]
        except OSError as error:
            raise SourceError(f"the upload cannot be read: {error.strerror or error}") from error
        stack.pop_all()
        return sources
