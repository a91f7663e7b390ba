"""Files and folders on web servers. Every request goes through `open_response`, which checks each redirect."""

import html
import io
import os
import re
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import BinaryIO, cast

import httpx

from server.jobs.sources.source import MAX_FILE_BYTES, AccessCheck, SourceError, SourceImageError, SourceImageFault
from server.web_requests import (
    WebAddressError,
    check_addresses,
    is_local_name,
    is_public,
    parse_url,
    pin_request,
)

_MAX_REDIRECTS = 5
_TIMEOUT = 30.0  # seconds without a byte
_TOTAL_TIMEOUT = 300.0  # seconds for one response
_BLOCK = 4 * 1024 * 1024  # bytes of a file that one request reads
_MAX_PAGE_BYTES = 64 * 1024 * 1024  # of a page that lists a folder: about 500,000 files
_MAX_PAGES = 100_000
_MAX_DEPTH = 64  # nested folders; a loop of links on another machine would not end
_LINK = re.compile(r"""<a\s[^<>]*?href\s*=\s*(?:"([^"<>\n]*)|'([^'<>\n]*)|([^"'<>\s]+))""", re.IGNORECASE)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_FAULT_BY_STATUS = {
    401: SourceImageFault.DENIED,
    403: SourceImageFault.DENIED,
    404: SourceImageFault.MISSING,
    410: SourceImageFault.MISSING,
}


@contextmanager
def open_response(
    url: str, is_allowed: AccessCheck | None, first: int = 0, last: int | None = None
) -> Iterator[httpx.Response]:
    """Requests the bytes `first` to `last` of a file, follows redirects, and yields the response with its content
    unread. The server may answer with the whole file (status 200).

    With `is_allowed`, every URL on the way must be allowed. Its addresses must be public too, unless the allowed URL
    itself names an address or a local host, or is also allowed with the address in place of the host. Without it, a
    public server may not redirect to an address that is not public. Raises SourceImageError and httpx's errors.
    """
    headers = {"Accept": "image/*,*/*"}
    if first or last is not None:
        headers["Range"] = f"bytes={first}-{'' if last is None else last}"
    inside = True  # whether the addresses so far need not be public
    for _ in range(_MAX_REDIRECTS + 1):
        if is_allowed is not None and not is_allowed(url):
            raise SourceImageError("this server is not configured to read from there", SourceImageFault.REFUSED)
        try:
            target = parse_url(url, allow_userinfo=True)
            if is_allowed is None and _uses_proxy(target):  # the proxy resolves names, and decides
                response = _get_client(pinned=False).send(httpx.Request("GET", url, headers=headers), stream=True)
            else:
                response, public = _send(target, headers, is_allowed, inside=inside)
                inside = inside and not public
        except WebAddressError as error:
            raise SourceImageError(str(error), SourceImageFault.REFUSED) from None
        try:
            if response.has_redirect_location:
                url = str(target.join(response.headers["location"]))
                if not url.startswith(("http://", "https://")):
                    raise SourceImageError("the address redirects to one that is not http(s)", SourceImageFault.REFUSED)
                continue
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                raise SourceImageError(
                    "the server answers with compressed content, which was not requested", SourceImageFault.UNREACHABLE
                )
            yield response
            return
        finally:
            response.close()
    raise SourceImageError(f"the address redirects more than {_MAX_REDIRECTS} times", SourceImageFault.UNREACHABLE)


def _uses_proxy(target: httpx.URL) -> bool:
    return target.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(target.host)


def _send(
    target: httpx.URL, headers: dict[str, str], is_allowed: AccessCheck | None, *, inside: bool
) -> tuple[httpx.Response, bool]:
    """Sends a request to an address of the host that was checked. Returns the response, and whether the address is
    public."""
    host = target.raw_host.decode("ascii")

    def may_connect(address: str) -> bool:
        if is_public(address) or (is_allowed is None and inside):
            return True
        return is_allowed is not None and (is_local_name(host) or is_allowed(str(target.copy_with(host=address))))

    port = target.port or (443 if target.scheme == "https" else 80)
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise SourceImageError("the name of its server is not known", SourceImageFault.UNREACHABLE) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    check_addresses(addresses, may_connect)
    for address in addresses:
        try:
            request = pin_request(target, address, headers, _TIMEOUT)
            return _get_client(pinned=True).send(request, stream=True), is_public(address)
        except httpx.ConnectError:  # a name often has an IPv6 address where nothing listens
            if address == addresses[-1]:
                raise
    raise AssertionError("a host without addresses was refused")


@cache
def _get_client(*, pinned: bool) -> httpx.Client:
    """Returns one client for all threads, so that connections are reused."""
    return httpx.Client(timeout=_TIMEOUT, trust_env=not pinned, follow_redirects=False)


def read_response(response: httpx.Response, limit: int) -> bytes:
    """Returns the content of a response; at most one byte more than `limit`. Raises TimeoutError."""
    deadline, data = time.monotonic() + _TOTAL_TIMEOUT, bytearray()
    for chunk in response.iter_raw():
        data += chunk[: limit + 1 - len(data)]
        if len(data) > limit:
            break
        if time.monotonic() > deadline:
            raise TimeoutError
    return bytes(data)


def check_status(response: httpx.Response) -> None:
    """Raises SourceImageError unless the server sends what was requested."""
    if response.status_code not in (200, 206):
        raise SourceImageError(
            f"the address answers with status {response.status_code}",
            _FAULT_BY_STATUS.get(response.status_code, SourceImageFault.UNREACHABLE),
        )


def open_web_file(url: str, is_allowed: AccessCheck | None) -> BinaryIO:
    """Opens a file on a web server for reading and seeking. Raises OSError, SourceError and httpx's errors."""
    return cast(BinaryIO, io.BufferedReader(_WebFile(url, is_allowed), _BLOCK))


class _WebFile(io.RawIOBase):
    """Reads a file by range requests, each of them checked. A server without them must send the whole file at once."""

    def __init__(self, url: str, is_allowed: AccessCheck | None) -> None:
        self._open = partial(open_response, url, is_allowed)
        self._position, self._start = 0, b""
        with self._open(0, _BLOCK - 1) as response:
            if response.status_code == 416:
                self._size = 0
                return
            check_status(response)
            found = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if response.status_code == 206 and found:
                self._start = read_response(response, _BLOCK)
                self._size = int(found[3])
                return
            self._start = read_response(response, MAX_FILE_BYTES)
            self._size = len(self._start)
            if self._size > MAX_FILE_BYTES:
                raise SourceError(
                    f"is larger than {MAX_FILE_BYTES:,} bytes on a server that sends files only as a whole (without "
                    "range requests): download it"
                )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        if not count:
            return 0
        data = self._start[self._position : self._position + count] or self._read_range(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _read_range(self, count: int) -> bytes:
        first = self._position
        with self._open(first, first + count - 1) as response:
            check_status(response)
            found = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if found is None or int(found[1]) != first or int(found[3]) != self._size:
                raise OSError("the file changed on its server while it was read")
            data = read_response(response, count)
        if not 0 < len(data) <= count:
            raise OSError("the server sent another number of bytes than it said")
        return data


def iter_web_files(url: str, is_allowed: AccessCheck | None) -> Iterator[str]:
    """Yields the URLs of the files below a folder, as the pages of the server list them.

    Links that lead out of the folder are skipped. Raises SourceError if the pages are too large or too many.
    """
    root = f"{url.rstrip('/')}/"
    folders, seen = [root], {root}
    pages = 0
    while folders:
        folder = folders.pop()
        pages += 1
        if pages > _MAX_PAGES:
            raise SourceError(f"has more than {_MAX_PAGES:,} folders; name a folder in it")
        for link in _iter_links(folder, is_allowed):
            if not link.startswith(root) or link in seen or "/../" in link:
                continue
            if not link.endswith("/"):
                yield link
            elif link[len(root) :].count("/") <= _MAX_DEPTH:
                seen.add(link)
                folders.append(link)


def _iter_links(page: str, is_allowed: AccessCheck | None) -> Iterator[str]:
    """Yields the links of a page as absolute URLs, each once."""
    with open_response(page, is_allowed) as response:
        check_status(response)
        data = read_response(response, _MAX_PAGE_BYTES)
        if len(data) > _MAX_PAGE_BYTES:
            raise SourceError(f"lists its files on a page of more than {_MAX_PAGE_BYTES:,} bytes; use a list of URLs")
    seen = set[str]()
    for found in _LINK.finditer(data.decode(errors="replace")):
        target = html.unescape(found[1] or found[2] or found[3] or "")
        try:
            link = urllib.parse.urljoin(page, urllib.parse.urldefrag(target).url.partition("?")[0])
        except ValueError:  # such as an invalid IPv6 address
            continue
        if link not in seen:
            seen.add(link)
            yield link
