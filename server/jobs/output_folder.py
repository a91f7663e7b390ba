"""An output folder that one process at a time writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = ".florist.lock"


class OutputError(OSError):
    """A folder that cannot be written now; the message says why."""


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """The folder, made where it is missing, and nobody else's meanwhile. The claim ends with the process, however that
    ends. Raises OutputError."""
    lock = FileLock(folder / _LOCK, thread_local=False)  # a server gives it back in another thread
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputError(f"another job writes to {folder}: wait for it, or take another folder") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        lock.release()
