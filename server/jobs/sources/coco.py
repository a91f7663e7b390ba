"""The images of a COCO file."""

import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from labels.child_environment import make_child_environment
from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.lists import ListSource
from server.jobs.sources.remote_folders import get_split
from server.jobs.sources.source import AccessCheck, SourceError
from server.store.text import redact_address

_PROCESS = Path(__file__).with_name("coco_process.py")
_BLOCK = 1024 * 1024  # bytes


def open_coco(address: str, is_allowed: AccessCheck | None = None, exclude: Path | None = None) -> ListSource:
    """Opens the images of a COCO file by their `file_name`, in the file's order.

    Images are found as in datasets: see `labels.image_folders`. Reads the file as a stream and keeps only the names.
    Raises SourceError.
    """
    try:
        with addresses.open_file(address, is_allowed) as file:
            rows = enumerate(_iter_names(file, address), 1)
            first = next(rows, None)
            if first is None:
                raise SourceError(f"{redact_address(address)} is not a COCO file with images: it has no `images`")
            return ListSource(address, chain([first], rows), is_allowed, exclude, get_split(address))
    except OSError as error:
        raise_source_error(address, error)


def _iter_names(file: BinaryIO, address: str) -> Iterator[str]:
    """Yields the name of each image; empty if it has none. Raises SourceError and the errors of reading `file`."""
    is_local = isinstance(file, io.BufferedReader) and isinstance(file.raw, io.FileIO)
    # -P: the folder of the program is not searched for modules.
    command = [sys.executable, "-P", str(_PROCESS)]
    failures: list[Exception] = []
    with subprocess.Popen(
        command, stdin=file if is_local else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=make_child_environment(),
    ) as process:  # fmt: skip
        output = cast(BinaryIO, process.stdout)
        try:
            if not is_local:
                threading.Thread(
                    target=_copy, args=(file, process.stdin, failures), name="florist-coco", daemon=True
                ).start()
            ended = False
            for line in output:
                value = json.loads(line)
                if isinstance(value, dict):
                    ended = True
                    if failures:
                        raise failures[0]
                    if value["error"]:
                        raise SourceError(f"{redact_address(address)} {value['error']}")
                else:
                    yield value or ""
            if not ended:
                raise SourceError(
                    f"{redact_address(address)} cannot be read: the process that reads it ended (exit code "
                    f"{process.wait()}); the file takes too much memory or time, or crashes the JSON parser"
                )
        finally:
            process.kill()
            if process.stdin is not None:
                with suppress(OSError):  # what it has buffered cannot be written any more
                    process.stdin.close()


def _copy(file: BinaryIO, pipe: BinaryIO, failures: list[Exception]) -> None:
    """Writes a remote file to the process."""
    try:
        while data := file.read(_BLOCK):
            pipe.write(data)
    except BrokenPipeError:  # the process has ended
        pass
    except Exception as error:  # file systems raise the errors of the libraries that they use
        failures.append(error)
    with suppress(OSError):
        pipe.close()
