"""Addresses of files: paths on this machine, and URLs that fsspec reads."""

import io
import os
import posixpath
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.local_files import open_local_file
from server.jobs.sources.source import AccessCheck, SourceError
from server.jobs.sources.web import open_web_file
from server.store.text import is_url, redact_address

_BLOCK = 4 * 1024 * 1024


def is_http(address: str) -> bool:
    """Returns whether an address is an http or https URL."""
    return address.lower().startswith(("http://", "https://"))


def strip_file_scheme(address: str) -> str:
    """Returns the path of a file:// URL, and any other address unchanged."""
    if not address.lower().startswith("file://"):
        return address
    return urllib.parse.unquote(urllib.parse.urlsplit(address).path)


def to_absolute(address: str) -> str:
    """Returns an address that does not depend on the current folder."""
    address = strip_file_scheme(address)
    return address if is_url(address) else str(Path(address).absolute())


def get_parent(address: str) -> str:
    """Returns the folder of a file."""
    if is_http(address):
        return urllib.parse.urljoin(address, ".").rstrip("/")
    return address.rpartition("/")[0] if is_url(address) else str(Path(address).parent)


def get_name(address: str) -> str:
    """Returns the last part of an address."""
    if is_url(address):
        return posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(address).path).rstrip("/"))
    return Path(address).name


def resolve_target(folder: str, target: str) -> str:
    """Returns the address of `target`, a URL or a path relative to `folder`."""
    target = strip_file_scheme(target)
    if is_url(target) or not is_url(folder):
        return target if is_url(target) else str(Path(folder) / target)
    path = target.lstrip("/")
    return f"{folder}/{urllib.parse.quote(path) if is_http(folder) else path}"


def open_filesystem(url: str) -> tuple[Any, str]:
    """Returns fsspec's file system for a URL, and the path in it. Raises SourceError."""
    if "::" in url:
        raise SourceError(f"{redact_address(url)} opens one file through another (`::`), which is not supported")
    try:
        # Without the cache of listings: a million entries would take a gigabyte.
        fs, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except Exception as error:
        raise_source_error(url, error)
    if isinstance(fs, LocalFileSystem):
        raise SourceError(f"{redact_address(url)} names a file of this machine: give its path")
    return fs, path


def open_file(address: str, is_allowed: AccessCheck | None) -> BinaryIO:
    """Opens a file for reading and seeking. With a check, everything that is opened must be allowed. Raises
    SourceError."""
    try:
        if not is_url(address):
            return open_local_file(address, is_allowed)
        if is_http(address):
            return open_web_file(address, is_allowed)
    except SourceError as error:
        raise SourceError(f"{redact_address(address)} {error}") from None
    except Exception as error:
        raise_source_error(address, error)
    if is_allowed is not None and not is_allowed(address):
        raise SourceError(f"this server is not configured to read from {redact_address(address)}")
    fs, path = open_filesystem(address)
    try:
        return cast(BinaryIO, fs.open(path, "rb", block_size=_BLOCK))
    except Exception as error:
        raise_source_error(address, error)


def get_file_stamp(file: BinaryIO) -> str:
    """Returns the size and the time of change of an open file on this machine as ImageSource.get_stamp does; empty for
    other files."""
    if not isinstance(file, io.BufferedReader) or not isinstance(file.raw, io.FileIO):
        return ""
    status = os.fstat(file.fileno())
    return f"{status.st_size}-{status.st_mtime_ns}"


def get_path_stamp(path: str) -> str:
    """Returns the same for a path; empty if there is no such file."""
    try:
        status = os.stat(path)  # noqa: PTH116 - also for names that are too long
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"
