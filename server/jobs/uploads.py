"""The uploads of a server: folders of images that clients have sent, as sources of jobs.

A request that fails or is cut off leaves nothing: its files are complete before they become a part of an upload.
"""

import errno
import json
import re
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.jobs.sources import SourceError
from server.jobs.sources.uploads import UPLOAD_PREFIX, UploadSource, list_parts
from server.jobs.upload_parts import UploadPart, UploadRoom, UploadTooLargeError
from server.store.text import hide_folders

UPLOADS_FOLDER = "uploads"  # in the folder for jobs
MAX_RECEIVING = 8  # requests that add images at a time
MAX_UPLOADS = 10_000  # more would make their list too long
_ID = re.compile(r"[0-9a-f]{16}")
_NEW, _DELETED = ".new-", ".deleted-"
_RECORD = "part.json"


class UploadLimitError(Exception):
    """Too many requests add images at this moment."""


class UnknownUploadError(Exception):
    """There is no such upload."""


class UploadInUseError(Exception):
    """An upload is needed."""


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Limits of uploads: the bytes of all of them, and of one; the images of one; the days for which one is kept that
    no job uses."""

    max_bytes: int = 16 * 1024**3
    max_images: int = 100_000
    days: float = 7


@dataclass(frozen=True, slots=True)
class Upload:
    """Images that a client has sent. `created` and `changed`, when the last ones came, are Unix timestamps."""

    id: str
    images: int
    bytes: int
    notes: tuple[str, ...]
    created: float
    changed: float

    @property
    def source(self) -> str:
        """The source of a job with these images."""
        return f"{UPLOAD_PREFIX}{self.id}"


class Uploads:
    """All uploads of a server, in `folder`, which only this server uses. Safe to use from any thread."""

    def __init__(self, folder: Path, limits: UploadLimits) -> None:
        """Removes what a process left that died."""
        self.folder, self.limits = folder, limits
        self._lock = threading.Lock()
        self._receiving = threading.BoundedSemaphore(MAX_RECEIVING)
        self._held: Counter[str] = Counter()  # by ID: how many calls use it at the moment
        for path in [*folder.glob(f"{_NEW}*"), *folder.glob(f"{_DELETED}*")]:
            shutil.rmtree(path, ignore_errors=True)
        self._room = UploadRoom(limits.max_bytes - sum(upload.bytes for upload in self.list_all()))

    @contextmanager
    def receive(self, upload_id: str | None = None) -> Iterator[UploadPart]:
        """Yields a part to write to, for a new upload or for the one with this ID. Pass it to `add` within the block.

        Raises UploadLimitError if others receive, UnknownUploadError, and OSError.
        """
        known = None if upload_id is None else self.get(upload_id)
        if not self._receiving.acquire(blocking=False):
            raise UploadLimitError(f"{MAX_RECEIVING} uploads are arriving, the limit of this server")
        folder = self.folder / f"{_NEW}{secrets.token_hex(8)}"
        part: UploadPart | None = None
        try:
            if known is None and sum(1 for _ in self._list_folders()) >= MAX_UPLOADS:
                raise OSError(errno.EDQUOT, f"there are {MAX_UPLOADS:,} uploads; delete some")
            folder.mkdir(parents=True)
            used, files = (known.bytes, known.images) if known else (0, 0)
            part = UploadPart(folder, self.limits.max_bytes - used, max(0, self.limits.max_images - files), self._room)
            yield part
        finally:
            self._receiving.release()
            if part is not None:
                part.close()
                if folder.exists():  # it was not added
                    self._room.give_back(part.bytes)
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, part: UploadPart, upload_id: str | None = None) -> Upload:
        """Makes a part that has arrived a new upload, or adds it to the one with this ID.

        Raises SourceError if it has no images or a broken archive, UploadTooLargeError for archives with too many
        images, UnknownUploadError, and OSError.
        """
        images, notes = _count_images(part)
        room = self.limits.max_images - (self.get(upload_id).images if upload_id else 0)
        if images > room:
            raise UploadTooLargeError(f"an upload has at most {self.limits.max_images:,} images; send fewer")
        now = time.time()
        record = {"images": images, "bytes": part.bytes, "notes": [*part.list_notes(), *notes], "created": now}
        (part.folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")
        with self._lock:
            if upload_id is None:
                upload_id = secrets.token_hex(8)
                (whole := part.folder.with_name(f"{_NEW}{upload_id}")).mkdir()
                part.folder.rename(whole / "1")
                whole.rename(self.folder / upload_id)
            else:
                folder = self._find_folder(upload_id)
                part.folder.rename(folder / str(1 + int(list_parts(folder)[-1].name)))
        return self.get(upload_id)

    def get(self, upload_id: str) -> Upload:
        """Returns an upload. Raises UnknownUploadError."""
        return self._read(self._find_folder(upload_id))

    def list_all(self) -> list[Upload]:
        """Returns all uploads, oldest first."""
        found: list[Upload] = []
        for folder in self._list_folders():
            try:
                found.append(self._read(folder))
            except UnknownUploadError:  # deleted meanwhile
                continue
        return sorted(found, key=lambda upload: (upload.created, upload.id))

    @contextmanager
    def hold(self, source: str) -> Iterator[None]:
        """Keeps the upload of a source from being deleted during the block. Does nothing for other sources."""
        if not source.startswith(UPLOAD_PREFIX):
            yield
            return
        upload_id = source.removeprefix(UPLOAD_PREFIX)
        with self._lock:
            self._held[upload_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[upload_id] -= 1
                if not self._held[upload_id]:
                    del self._held[upload_id]

    def open_source(self, source: str) -> UploadSource:
        """Opens the images of an upload by the source of a job. Raises SourceError."""
        return open_upload(self.folder, source)

    def delete(self, upload_id: str, check: Callable[[], None]) -> None:
        """Deletes an upload, unless `check` raises an error. Nobody begins to use it after the check.

        Raises UnknownUploadError, and UploadInUseError while a call holds it.
        """
        with self._lock:
            folder = self._find_folder(upload_id)
            if self._held[upload_id] > 0:
                raise UploadInUseError(f"a job with the upload {upload_id} is being started or extended; retry soon")
            check()
            size = self._read(folder).bytes
            folder.rename(gone := self.folder / f"{_DELETED}{upload_id}")
        shutil.rmtree(gone, ignore_errors=True)
        self._room.give_back(size)

    def get_expiry(self, upload: Upload) -> float:
        """Returns when the upload is deleted if no job uses it, as a Unix timestamp."""
        return upload.changed + 86400 * self.limits.days

    def _list_folders(self) -> Iterator[Path]:
        if self.folder.is_dir():
            yield from (path for path in self.folder.iterdir() if _ID.fullmatch(path.name))

    def _find_folder(self, upload_id: str) -> Path:
        return _find_upload(self.folder, upload_id)

    def _read(self, folder: Path) -> Upload:
        try:
            records = [json.loads((part / _RECORD).read_bytes()) for part in list_parts(folder)]
        except OSError as error:
            raise UnknownUploadError(f"there is no upload {folder.name}") from error
        notes = tuple(note for record in records for note in record["notes"])
        images, size = (sum(record[key] for record in records) for key in ("images", "bytes"))
        return Upload(folder.name, images, size, notes, records[0]["created"], records[-1]["created"])


def open_upload(folder: Path, source: str) -> UploadSource:
    """Opens the images of an upload in the folder of all uploads, by the source of a job. Raises SourceError."""
    try:
        return UploadSource(list_parts(_find_upload(folder, source.removeprefix(UPLOAD_PREFIX))))
    except UnknownUploadError as error:
        raise SourceError(str(error)) from error


def _find_upload(folder: Path, upload_id: str) -> Path:
    """Returns the folder of an upload in the folder of all uploads. Raises UnknownUploadError."""
    found = folder / upload_id
    if not _ID.fullmatch(upload_id) or not found.is_dir():
        raise UnknownUploadError(f"there is no upload {upload_id[:40]}: it was deleted, or no job used it in time")
    return found


def _count_images(part: UploadPart) -> tuple[int, list[str]]:
    """Returns the number of images in a part, and the notes of its sources. Raises SourceError."""
    try:
        with UploadSource([part.folder]) as source:
            if not len(source):
                raise SourceError("there are no images in it" + "".join(f". {note}" for note in source.notes))
            return len(source), list(source.notes)
    except SourceError as error:
        raise SourceError(hide_folders(str(error))) from error
