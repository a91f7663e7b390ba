"""Opening files and folders on this machine that others can change while a job reads them.

With a check, a path is resolved first, the resolved path is checked, and then each of its parts is opened below the one
before without following links. Whoever replaces a folder with a link in between gets an error, not another file.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from server.jobs.sources.source import AccessCheck, SourceImageError, SourceImageFault

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK, opening a pipe would block
# Of the folders on the way. With O_PATH (Linux), they need not be readable.
_FOLDER_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC | os.O_DIRECTORY


def open_local_file(path: str, is_allowed: AccessCheck | None) -> BinaryIO:
    """Opens a regular file. Raises OSError; SourceImageError if it is not a file, or not allowed."""
    descriptor = _open(path, is_allowed, _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        os.close(descriptor)
        raise SourceImageError("it is a folder" if is_folder else "it is not a file", SourceImageFault.BROKEN)
    return os.fdopen(descriptor, "rb")


def open_local_folder(path: str, is_allowed: AccessCheck | None) -> int:
    """Returns a descriptor of a folder for os.scandir. Raises OSError; SourceImageError if it is not allowed."""
    return _open(path, is_allowed, _FLAGS | os.O_DIRECTORY)


def _open(path: str, is_allowed: AccessCheck | None, flags: int) -> int:
    if "\0" in path:
        raise SourceImageError("there is no such file: its name has a zero byte", SourceImageFault.MISSING)
    if is_allowed is None:
        return os.open(path, flags)
    path = os.path.realpath(path)
    if not is_allowed(path):
        raise SourceImageError("this server is not configured to read from there", SourceImageFault.REFUSED)
    root, *parts = Path(path).parts
    folder = os.open(root, _FOLDER_FLAGS)
    try:
        for part in parts[:-1]:
            below = os.open(part, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
        return os.open(parts[-1] if parts else ".", flags | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)
