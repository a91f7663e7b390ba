"""The files of one request that adds to an upload, while they arrive."""

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import BinaryIO

from prompts.text import truncate
from server.jobs.export_folders import MIN_FREE_BYTES
from server.jobs.sources.names import MAX_PART, is_hidden, split_suffix, to_safe_name
from server.jobs.sources.uploads import ARCHIVES, FILES, is_archive

_START_BYTES = 512  # by which archives are recognized
_CHECKED_BYTES = 16 * 1024 * 1024  # after which the free space is checked again
_NUMBER_BYTES = 8  # room for a number in a long name
_MAX_SHOWN = 5


class UploadTooLargeError(ValueError):
    """An upload has more bytes or files than allowed."""


class UploadRoom:
    """The bytes that all uploads together may still have."""

    def __init__(self, count: int) -> None:
        self._count, self._lock = count, threading.Lock()

    def take(self, count: int) -> None:
        """Raises OSError if there is not as much."""
        with self._lock:
            if count > self._count:
                raise OSError(errno.EDQUOT, "the uploads of this server have no more room; delete some")
            self._count -= count

    def give_back(self, count: int) -> None:
        with self._lock:
            self._count += count


class UploadPart:
    """The files of one request, while they arrive. Not safe to use from several threads at a time.

    Methods raise UploadTooLargeError, and OSError if the disk is full.
    """

    def __init__(self, folder: Path, max_bytes: int, max_files: int, room: UploadRoom) -> None:
        self.folder = folder
        self._max_bytes, self._max_files, self._room = max_bytes, max_files, room
        self.bytes = self.files = self.archives = self._hidden = self._unchecked = 0
        self._renamed: list[str] = []
        self._incoming = folder / "incoming"
        self._file: BinaryIO | None = None
        self._name, self._start = "", b""
        self._check_space()

    def start_file(self, name: str) -> None:
        """Begins a file."""
        self.files += 1
        if self.files > self._max_files:
            raise UploadTooLargeError(f"this upload has room for {self._max_files:,} files; send the others as another")
        self._name, self._start = name.replace("\\", "/"), b""
        self._file = self._incoming.open("wb")

    def write(self, data: bytes | memoryview) -> None:
        """Adds bytes to the file."""
        assert self._file is not None
        if self.bytes + len(data) > self._max_bytes:
            raise UploadTooLargeError(f"this upload has room for {self._max_bytes:,} bytes; send the rest as another")
        self._room.take(len(data))
        self.bytes += len(data)
        self._unchecked += len(data)
        if self._unchecked > _CHECKED_BYTES:
            self._check_space()
        if len(self._start) < _START_BYTES:
            self._start += bytes(data[: _START_BYTES - len(self._start)])
        self._file.write(data)

    def end_file(self) -> None:
        """Ends the file, and puts it where it belongs: with the archives, or with the images."""
        assert self._file is not None
        self._file.close()
        self._file = None
        name = to_safe_name(self._name)
        if is_hidden(name):
            self._hidden += 1
            self._incoming.unlink()
            return
        if is_archive(self._start):
            self.archives += 1
            folder, wanted = self.folder / ARCHIVES, f"{self.files:06}-{name.rpartition('/')[2][-40:]}"
        else:
            folder, wanted = self.folder / FILES, name
        chosen = _choose_name(folder, wanted)
        if chosen != wanted:
            self._renamed.append(f"{truncate(self._name, 80)!r} is {chosen!r}")
        (folder / chosen).parent.mkdir(parents=True, exist_ok=True)
        self._incoming.rename(folder / chosen)

    def list_notes(self) -> list[str]:
        """Returns messages about files that were not kept, or not with their names."""
        notes = [f"{self._hidden:,} hidden files were not kept, whose names begin with a dot"] if self._hidden else []
        if self._renamed:
            more = ", …" if len(self._renamed) > _MAX_SHOWN else ""
            shown = ", ".join(self._renamed[:_MAX_SHOWN])
            notes.append(f"{len(self._renamed):,} files have another name, as theirs was taken: {shown}{more}")
        return notes

    def close(self) -> None:
        """Closes the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check_space(self) -> None:
        self._unchecked = 0
        if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _choose_name(folder: Path, name: str) -> str:
    """Returns the name, or a new one if a file has it, or if one of its folders is a file."""
    (stem, suffix), number = split_suffix(name), 1
    if len(name.rpartition("/")[2].encode()) > MAX_PART - _NUMBER_BYTES:
        stem = stem.encode()[:-_NUMBER_BYTES].decode(errors="ignore")
    while os.path.lexists(folder / name):
        number += 1
        name = f"{stem}~{number}{suffix}"
    blocked = any((folder / parent).is_file() for parent in Path(name).parents)
    return _choose_name(folder, to_safe_name(name.replace("/", "_"))) if blocked else name
