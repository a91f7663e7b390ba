"""Reading one image file from a path or a URL."""

import io
import os
import stat
import time
from functools import cache
from typing import cast

import fsspec
import httpx

from server.jobs.sources.addresses import is_http
from server.jobs.sources.failures import to_image_error
from server.jobs.sources.source import (
    MAX_FILE_BYTES,
    AccessCheck,
    SourceImageError,
    SourceImageFault,
    make_size_error,
)
from server.store.text import is_url

_MAX_REDIRECTS = 5
_TIMEOUT = 30.0  # seconds without a byte
_TOTAL_TIMEOUT = 300.0  # seconds for one file
_FAULT_BY_STATUS = {
    401: SourceImageFault.DENIED,
    403: SourceImageFault.DENIED,
    404: SourceImageFault.MISSING,
    410: SourceImageFault.MISSING,
}


def read_image(address: str, is_allowed: AccessCheck | None = None) -> bytes:
    """Returns the bytes of an image file. Raises only SourceImageError."""
    try:
        if not is_url(address):
            return _read_path(address, is_allowed)
        if is_http(address):
            return _read_http(address, is_allowed)
        _check_access(address, is_allowed)
        fs, path = fsspec.url_to_fs(address)
        size = fs.size(path)
        if size is not None and size > MAX_FILE_BYTES:
            raise make_size_error(size)
        return cast(bytes, fs.cat_file(path))
    except SourceImageError:
        raise
    except Exception as error:  # file systems raise the errors of the libraries that they use
        raise to_image_error(error) from error


def _check_access(address: str, is_allowed: AccessCheck | None) -> None:
    if is_allowed is not None and not is_allowed(address):
        raise SourceImageError("this server is not configured to read from there", SourceImageFault.REFUSED)


def _read_path(path: str, is_allowed: AccessCheck | None) -> bytes:
    if "\0" in path:
        raise SourceImageError("there is no such file: its name has a zero byte", SourceImageFault.MISSING)
    if is_allowed is not None:
        path = os.path.realpath(path)
        _check_access(path, is_allowed)
    # Without O_NONBLOCK, opening a pipe would block.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SourceImageError("it is not a file", SourceImageFault.BROKEN)
        data = file.read(MAX_FILE_BYTES + 1) if status.st_size <= MAX_FILE_BYTES else b""
        if max(len(data), status.st_size) > MAX_FILE_BYTES:
            raise make_size_error(max(len(data), status.st_size))
        return data


def _read_http(url: str, is_allowed: AccessCheck | None) -> bytes:
    deadline = time.monotonic() + _TOTAL_TIMEOUT
    for _ in range(_MAX_REDIRECTS + 1):
        _check_access(url, is_allowed)
        with _get_client().stream("GET", url) as response:
            if response.is_redirect:
                url = str(response.url.join(response.headers["location"]))
                if not is_http(url):
                    raise SourceImageError("the address redirects to one that is not http(s)", SourceImageFault.REFUSED)
                continue
            if response.status_code != 200:
                raise SourceImageError(
                    f"the address answers with status {response.status_code}",
                    _FAULT_BY_STATUS.get(response.status_code, SourceImageFault.UNREACHABLE),
                )
            data = io.BytesIO()
            for chunk in response.iter_bytes():
                data.write(chunk)
                if data.tell() > MAX_FILE_BYTES:
                    raise make_size_error(data.tell())
                if time.monotonic() > deadline:
                    raise TimeoutError
            return data.getvalue()
    raise SourceImageError(f"the address redirects more than {_MAX_REDIRECTS} times", SourceImageFault.UNREACHABLE)


@cache
def _get_client() -> httpx.Client:
    """Returns one client for all threads, so that connections are reused."""
    return httpx.Client(timeout=_TIMEOUT, headers={"Accept": "image/*,*/*", "Accept-Encoding": "identity"})
