"""Temporary folders for exports, while they are written and downloaded: few at a time, never in the last free space."""

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

MAX_EXPORTS = 8  # a slow client holds one until its download ends
MIN_FREE_BYTES = 1 << 30  # for the database, which may be on the same disk
T = TypeVar("T")


class ExportLimitError(Exception):
    """Too many exports are being written or downloaded."""


class ExportFolders:
    """Temporary folders in `folder`. Removes those that a process left that died."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places = threading.BoundedSemaphore(MAX_EXPORTS)
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def create_folder(self) -> Iterator[Path]:
        """Creates a folder for one export, until the block ends. Raises ExportLimitError, and OSError if there is too
        little free space."""
        if not self._places.acquire(blocking=False):
            raise ExportLimitError(f"{MAX_EXPORTS} exports are being written or downloaded, the limit of this server")
        try:
            with self.create_temporary_folder() as folder:
                self._check_space()
                yield folder
        finally:
            self._places.release()

    @contextmanager
    def create_temporary_folder(self) -> Iterator[Path]:
        """Creates a folder for a moment, which does not count as an export. Raises OSError."""
        self.folder.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def limit_space(self, images: Iterable[T]) -> Iterator[T]:
        """Yields the images of an export. Raises OSError when writing them has left too little free space."""
        for image in images:
            self._check_space()
            yield image

    def _check_space(self) -> None:
        if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
