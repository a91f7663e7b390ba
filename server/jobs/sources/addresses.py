"""Addresses: paths on this machine, and URLs of anything that fsspec reads."""

import errno
import io
import os
import posixpath
import re
import stat
import time
import urllib.parse
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

import fsspec
import httpx

from server.jobs.sources.source import MOST_BYTES, Allowed, ImageErrorKind, SourceImageError, SourceError, too_large

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:// would be a drive
_REDIRECTS = 5
_SECONDS = 30.0  # without a byte
_SECONDS_IN_ALL = 300.0
_BLOCK = 4 * 1024 * 1024


def is_url(address: str) -> bool:
    return _URL.match(address) is not None


def is_http(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))


def shown(address: str) -> str:
    """An address as messages show it: passwords and signatures left out."""
    if not is_url(address):
        return address
    return re.sub(r"//[^/@]*@", "//", address.partition("?")[0])


def local(address: str) -> str:
    """file:// URLs as paths, all else as it is."""
    if not address.lower().startswith("file://"):
        return address
    return urllib.parse.unquote(urllib.parse.urlsplit(address).path)


def absolute(address: str) -> str:
    """An address that means the same in every folder."""
    address = local(address)
    return address if is_url(address) else str(Path(address).absolute())


def parent(address: str) -> str:
    """The folder of a file."""
    if is_http(address):
        return urllib.parse.urljoin(address, ".").rstrip("/")
    return address.rpartition("/")[0] if is_url(address) else str(Path(address).parent)


def join(folder: str, target: str) -> str:
    """`target`, a URL or a path, as seen from `folder`."""
    target = local(target)
    if is_url(target) or not is_url(folder):
        return target if is_url(target) else str(Path(folder) / target)
    path = target.lstrip("/")
    return f"{folder}/{urllib.parse.quote(path) if is_http(folder) else path}"


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path there. Raises SourceError."""
    try:
        # Listings are not kept: a million of them would be a gigabyte.
        fs, path = fsspec.url_to_fs(url, **({"use_listings_cache": False} if not is_http(url) else {}))
    except Exception as error:
        fail(url, error)
    return fs, path


def open_file(address: str) -> BinaryIO:
    """A file to read and seek in. Raises SourceError."""
    try:
        if not is_url(address):
            return Path(address).open("rb")
        fs, path = filesystem(address)
        return cast(BinaryIO, fs.open(path, "rb", block_size=_BLOCK))
    except SourceError:
        raise
    except Exception as error:
        fail(address, error)


def read(address: str, allowed: Allowed | None = None) -> bytes:
    """The bytes of one picture's file. Raises ItemError and nothing else."""
    try:
        if not is_url(address):
            return _read_path(address, allowed)
        if is_http(address):
            return _read_http(address, allowed)
        _ask(address, allowed)
        fs, path = fsspec.url_to_fs(address)
        size = fs.size(path)
        if size is not None and size > MOST_BYTES:
            raise too_large(size)
        return cast(bytes, fs.cat_file(path))
    except SourceImageError:
        raise
    except Exception as error:  # file systems raise what the libraries below them do
        reason, fault = explained(error)
        raise SourceImageError(reason, fault) from error


def fail(address: str, error: Exception) -> NoReturn:
    """An error of a file system as a SourceError that says what to do."""
    reason, fault = explained(error)
    if fault is ImageErrorKind.MISSING:
        reason = "there is no such file, folder or bucket"
    raise SourceError(f"{shown(address)} cannot be read: {reason}") from error


def explained(error: Exception) -> tuple[str, ImageErrorKind]:
    """An error of any file system in a person's words."""
    name, cause = type(error).__name__, error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
        return explained(cause)  # fsspec finds no file where it reaches no server
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file", ImageErrorKind.MISSING
    if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return f"there is no such file: {error.strerror}", ImageErrorKind.MISSING
    if "Credentials" in name:
        return "no credentials; for s3:// set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE", ImageErrorKind.DENIED
    if isinstance(error, IsADirectoryError):
        return "it is a folder", ImageErrorKind.BROKEN
    if isinstance(error, PermissionError):
        return f"access is denied: {error.strerror or error}", ImageErrorKind.DENIED
    if isinstance(error, ImportError):
        return f"a package is missing: {error}", ImageErrorKind.UNREACHABLE
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "it did not answer in time", ImageErrorKind.UNREACHABLE
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\n")[0]
    return reason or name, ImageErrorKind.UNREACHABLE


def _ask(address: str, allowed: Allowed | None) -> None:
    if allowed is not None and not allowed(address):
        raise SourceImageError("this server is not set to read from there", ImageErrorKind.REFUSED)


def _read_path(path: str, allowed: Allowed | None) -> bytes:
    if "\0" in path:
        raise SourceImageError("there is no such file: its name holds a zero byte", ImageErrorKind.MISSING)
    if allowed is not None:
        path = os.path.realpath(path)
        _ask(path, allowed)
    # Without O_NONBLOCK a pipe would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise SourceImageError("it is no file", ImageErrorKind.BROKEN)
        data = file.read(MOST_BYTES + 1) if status.st_size <= MOST_BYTES else b""
        if max(len(data), status.st_size) > MOST_BYTES:
            raise too_large(max(len(data), status.st_size))
        return data


def _read_http(url: str, allowed: Allowed | None) -> bytes:
    end = time.monotonic() + _SECONDS_IN_ALL
    for _ in range(_REDIRECTS + 1):
        _ask(url, allowed)
        with _client().stream("GET", url) as response:
            if response.is_redirect:
                url = str(response.url.join(response.headers["location"]))
                if not is_http(url):
                    raise SourceImageError("the address leads to one that is not http(s)", ImageErrorKind.REFUSED)
                continue
            if response.status_code != 200:
                fault = {401: ImageErrorKind.DENIED, 403: ImageErrorKind.DENIED, 404: ImageErrorKind.MISSING, 410: ImageErrorKind.MISSING}
                raise SourceImageError(
                    f"the address answers {response.status_code}", fault.get(response.status_code, ImageErrorKind.UNREACHABLE)
                )
            data = io.BytesIO()
            for chunk in response.iter_bytes():
                data.write(chunk)
                if data.tell() > MOST_BYTES:
                    raise too_large(data.tell())
                if time.monotonic() > end:
                    raise TimeoutError
            return data.getvalue()
    raise SourceImageError(f"the address redirects more than {_REDIRECTS} times", ImageErrorKind.UNREACHABLE)


@cache
def _client() -> httpx.Client:
    """One for all, so that connections are kept."""
    return httpx.Client(timeout=_SECONDS, headers={"Accept": "image/*,*/*", "Accept-Encoding": "identity"})


def basename(address: str) -> str:
    """The last part of an address."""
    if is_url(address):
        return posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(address).path).rstrip("/"))
    return Path(address).name
