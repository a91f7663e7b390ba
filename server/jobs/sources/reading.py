"""Reading one image file from a path or a URL."""

import os
from typing import Any, cast

from server.jobs.sources.addresses import is_http, open_filesystem
from server.jobs.sources.failures import to_image_error
from server.jobs.sources.local_files import open_local_file
from server.jobs.sources.source import (
    MAX_FILE_BYTES,
    AccessCheck,
    Reserve,
    SourceImageError,
    SourceImageFault,
    make_size_error,
)
from server.jobs.sources.web import check_status, open_response, read_response
from server.store.text import is_url

_MAX_UNKNOWN_BYTES = 32 * 1024 * 1024  # of an image whose server does not say its size


def read_image(address: str, is_allowed: AccessCheck | None, reserve: Reserve) -> bytes:
    """Returns the bytes of an image file. Calls `reserve` as SourceImage.read does. Raises only SourceImageError."""
    try:
        if not is_url(address):
            return _read_path(address, is_allowed, reserve)
        if is_http(address):
            return _read_http(address, is_allowed, reserve)
        if is_allowed is not None and not is_allowed(address):
            raise SourceImageError("this server is not configured to read from there", SourceImageFault.REFUSED)
        fs, path = open_filesystem(address)
        return read_from_filesystem(fs, path, fs.size(path), reserve)
    except SourceImageError:
        raise
    except Exception as error:  # file systems raise the errors of the libraries that they use
        raise to_image_error(error) from error


def _read_path(path: str, is_allowed: AccessCheck | None, reserve: Reserve) -> bytes:
    with open_local_file(path, is_allowed) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise make_size_error(size)
        reserve(size)
        data = file.read(size + 1)
        if len(data) > size:
            raise SourceImageError("the file grew while it was read", SourceImageFault.UNREACHABLE)
        return data


def _read_http(url: str, is_allowed: AccessCheck | None, reserve: Reserve) -> bytes:
    with open_response(url, is_allowed) as response:
        check_status(response)
        stated = response.headers.get("content-length", "")
        size = int(stated) if stated.isdecimal() else None
        if size is not None and size > MAX_FILE_BYTES:
            raise make_size_error(size)
        reserve(size if size is not None else _MAX_UNKNOWN_BYTES)
        return _check_length(read_response(response, size if size is not None else _MAX_UNKNOWN_BYTES), size)


def read_from_filesystem(fs: Any, path: str, size: int | None, reserve: Reserve) -> bytes:
    """Returns the bytes of an image file. `size` is in bytes; None: unknown. Raises SourceImageError and the errors of
    the file system."""
    if size is not None and size > MAX_FILE_BYTES:
        raise make_size_error(size)
    reserve(size if size is not None else _MAX_UNKNOWN_BYTES)
    if size is not None:
        # Not the size, since the file may have been replaced by a larger one.
        data = cast(bytes, fs.cat_file(path, start=0, end=MAX_FILE_BYTES + 1)) if size else b""
        if len(data) > MAX_FILE_BYTES:
            raise make_size_error(len(data))
        return data
    with fs.open(path, "rb") as file:
        return _check_length(file.read(_MAX_UNKNOWN_BYTES + 1), None)


def _check_length(data: bytes, size: int | None) -> bytes:
    """Returns the data of a file whose server states its size in bytes, or None. Raises SourceImageError."""
    if size is None and len(data) > _MAX_UNKNOWN_BYTES:
        raise SourceImageError(
            f"it has more than {_MAX_UNKNOWN_BYTES:,} bytes, and its server does not say how many",
            SourceImageFault.TOO_LARGE,
        )
    return data
