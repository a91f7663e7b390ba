"""A lock on an output folder, so that one process at a time writes to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK_FILE = ".florist.lock"


class OutputError(OSError):
    """An output folder cannot be used now. The message says why."""


@contextmanager
def claim_output_folder(folder: Path, owner: str = "job") -> Iterator[Path]:
    """Creates the folder if needed, and locks it during the block.

    The lock is released when the process ends, however it ends. Raises OutputError. `owner`: what locks such a folder,
    for the message: a job or a server.
    """
    lock = FileLock(folder / _LOCK_FILE, thread_local=False)  # a server releases it in another thread
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        advice = "stop it" if owner == "server" else "wait until it ends"
        raise OutputError(f"another {owner} writes to {folder}: {advice}, or use another folder") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        lock.release()
