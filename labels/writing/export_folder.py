"""A folder, or one file, that appears when it is complete or not at all."""

import errno
import fcntl
import glob
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

MARKER = ".florist"  # the file that identifies an export, so that the next one may replace it
_FILE = "file"
# What other programs leave in a folder that they read: Ultralytics, macOS, Windows.
_LEFT_BY_PROGRAMS = (".DS_Store", "Thumbs.db", "desktop.ini")
_CACHE = ".cache"
_NO_HARD_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


class ExportFolder:
    """The folder `root` while it is written. Paths are relative to it, with forward slashes.

    `main_file` is the path of the one file of a format without a folder.
    """

    def __init__(self, root: Path, main_file: str = _FILE) -> None:
        self.root, self.main_file = root, main_file
        self._files = ExitStack()

    def open(self, path: str) -> IO[str]:
        """Opens a text file that stays open, to write and read, until the folder is complete.

        Characters that UTF-8 cannot represent (lone surrogates of a file name) are escaped as in JSON.
        """
        file = self._resolve(path).open("w+", encoding="utf-8", errors="backslashreplace", newline="\n")
        return self._files.enter_context(file)

    def write(self, path: str, content: str | bytes) -> None:
        """Writes one whole file."""
        data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
        self._resolve(path).write_bytes(data)

    def link(self, path: str, file: Path) -> bool:
        """Makes a link to a file, and returns whether it is a hard one.

        Datumaro and supervision refuse symbolic links that lead out of a dataset. A file on another disk, or one that
        the system lets only its owner link to, gets a symbolic link. It is relative, so that both can be moved
        together. Raises OSError if the disk cannot hold links.
        """
        link, target = self._resolve(path), os.path.realpath(file)
        try:
            link.hardlink_to(target)
            return True
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
        try:
            link.symlink_to(os.path.relpath(target, os.path.realpath(link.parent)))
            return False
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
            reason = f"the disk cannot hold links ({error.strerror}): copy the images"
            raise OSError(error.errno, reason, path) from error

    def remove(self, path: str) -> None:
        """Removes a temporary file."""
        (self.root / path).unlink()

    def write_marker(self, report: dict[str, Any]) -> None:
        """Writes the report of the export, which identifies the folder as one.

        Closes the open files first: the marker must be the last file, as a later change of a file tells that a person
        has changed the export.
        """
        self.close()
        self.write(MARKER, json.dumps(report, ensure_ascii=False, indent=1))

    def close(self) -> None:
        """Closes the open files."""
        self._files.close()

    def _resolve(self, path: str) -> Path:
        full = self.root / path
        full.parent.mkdir(parents=True, exist_ok=True)
        return full


@contextmanager
def open_export(out: Path, *, one_file: bool, main_file: str = _FILE) -> Iterator[ExportFolder]:
    """Yields a temporary folder beside `out` that replaces `out` at the end, and is removed after an error.

    With `one_file`, its `main_file` replaces `out`. Raises FileExistsError if `out` is anything but an earlier export
    that nobody has changed.
    """
    out = out.resolve()  # a link stays, and what it points to is replaced
    check_target(out, one_file=one_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    folder = ExportFolder(part, main_file)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        folder.close()
        if one_file:
            (part / main_file).replace(out)
        else:
            check_target(out, one_file=False)
            if out.exists():
                # Two steps: for a moment a reader may find nothing, but never half a dataset.
                out.rename(old := part.with_suffix(".old.part"))
                try:
                    part.rename(out)
                except OSError:
                    old.rename(out)
                    raise
                shutil.rmtree(old)
            else:
                part.rename(out)
    finally:
        folder.close()
        os.close(lock)
        shutil.rmtree(part, ignore_errors=True)


def check_target(out: Path, *, one_file: bool) -> None:
    """Raises FileExistsError if an export to `out` would replace anything but an unchanged earlier export."""
    if one_file:
        if out.is_dir():
            raise FileExistsError(f"{out} is a folder, but this format is one file: choose a file")
    elif out.is_dir():
        if any(out.iterdir()) and not _is_export(out):
            raise FileExistsError(f"{out} contains files that are not a florist export: choose an empty or new folder")
        if (changed := _find_changed_file(out)) is not None:
            raise FileExistsError(
                f"{out} is an export that was changed since, for example {changed}: move it, or choose a new folder"
            )
    elif out.exists():
        raise FileExistsError(f"{out} is a file, but this format is a folder: choose a new folder")


def _is_export(folder: Path) -> bool:
    try:
        return "left_out" in json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return False


def _find_changed_file(folder: Path) -> Path | None:
    """Returns a file of an export that somebody has added or changed since; None if there is none.

    Caches of other programs do not count, nor do files with several hard links, which change with each new link, nor
    the files that symbolic links point to. The marker is the last file that an export writes, and only the system sets
    the time of a file's last change.
    """
    marker = folder / MARKER
    if not marker.exists():
        return None
    written = marker.stat().st_ctime_ns
    for root, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_CACHE) or name in _LEFT_BY_PROGRAMS:
                continue
            status = (path := Path(root, name)).lstat()
            if status.st_ctime_ns > written and status.st_nlink == 1:
                return path.relative_to(folder)
    return None


def _remove_leftovers(out: Path) -> None:
    """Removes temporary folders of killed exports to `out`: those that no process has locked."""
    for part in out.parent.glob(f".{glob.escape(out.name)}.*.part"):
        try:
            lock = os.open(part, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(part, ignore_errors=True)
        except OSError:
            pass  # another export is writing it
        finally:
            os.close(lock)
