"""Addresses of files: paths on this machine, and URLs that fsspec reads."""

import posixpath
import urllib.parse
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.source import SourceError
from server.store.text import is_url

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
    try:
        # Without the cache of listings: a million entries would take a gigabyte.
        fs, path = fsspec.url_to_fs(url, **({"use_listings_cache": False} if not is_http(url) else {}))
    except Exception as error:
        raise_source_error(url, error)
    return fs, path


def open_file(address: str) -> BinaryIO:
    """Opens a file for reading and seeking. Raises SourceError."""
    try:
        if not is_url(address):
            return Path(address).open("rb")
        fs, path = open_filesystem(address)
        return cast(BinaryIO, fs.open(path, "rb", block_size=_BLOCK))
    except SourceError:
        raise
    except Exception as error:
        raise_source_error(address, error)
