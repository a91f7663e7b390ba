"""Opening files of others, which may be none: opening a pipe would wait for ever."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular_file(path: Path) -> BinaryIO:
    """Opens a file for reading. Raises OSError, also for pipes, devices and folders."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "it is a folder" if stat.S_ISDIR(mode) else "it is not a file", str(path))
    return os.fdopen(descriptor, "rb")
