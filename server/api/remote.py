"""Fetching a picture from an address that a stranger names, without becoming their way into the private network.

Every host, redirects' too, is resolved here; each of its addresses must be public; and the connection goes to the very
address that was checked, so that a name cannot mean one thing to the guard and another to the socket.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

import httpx

from server.api.problems import INVALID_PICTURE, Problem

_REDIRECTS = 3
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Resolve = Callable[[str, int], Awaitable[list[str]]]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also when an IPv6 address wraps an IPv4 one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or int(ip) < 1 << 32:  # the latter: IPv4-compatible, long obsolete
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_link_local)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host; numbers in any of the notations that sockets take are hosts too."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


async def fetch(
    url: str, most: int, seconds: float, *, allowed: Callable[[str], bool] = is_public, resolve: Resolve = resolve
) -> bytes:
    """What is at `url`, at most `most` bytes and within `seconds` in all. Raises Problem."""
    try:
        async with asyncio.timeout(seconds), httpx.AsyncClient(trust_env=False, timeout=seconds) as client:
            for _ in range(_REDIRECTS + 1):
                target = _target(url)
                pinned = await _pin(target, allowed, resolve)
                request = client.build_request(
                    "GET",
                    target.copy_with(host=pinned),
                    # Undone compression could be a thousand times larger than what was counted.
                    headers={"Host": target.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": target.raw_host.decode("ascii")},
                )
                response = await client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return await _body(response, most)
                    url = str(target.join(response.headers["location"]))
                finally:
                    await response.aclose()
    except TimeoutError:
        raise _refusal(f"the picture was not there within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        # The reason is not passed on: it would tell a stranger about hosts that they cannot reach.
        raise _refusal("the picture could not be fetched; send it as `image`") from None
    raise _refusal(f"the address redirects more than {_REDIRECTS} times")


def _target(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise _refusal("this is not an address; it must be like https://example.org/cat.jpg") from None
    if target.scheme not in ("http", "https") or not target.host:
        raise _refusal("the address must begin with http:// or https:// and name a host")
    if target.port is not None and not 0 < target.port < 65536:
        raise _refusal("the address has a port that does not exist; it must be 1 to 65535")
    if target.userinfo:
        raise _refusal("the address holds a user name or password; take it out")
    return target


async def _pin(target: httpx.URL, allowed: Callable[[str], bool], resolve: Resolve) -> str:
    """The one address to connect to; all that the host has must be allowed, or it could choose."""
    try:
        addresses = await resolve(target.raw_host.decode("ascii"), target.port or 0)
    except (OSError, UnicodeError):
        addresses = []
    if not addresses or not all(map(allowed, addresses)):
        # One answer for both, so that it does not tell which private names exist.
        raise _refusal("its host is not on the public internet, or not found; send the picture itself as `image`")
    return addresses[0]


async def _body(response: httpx.Response, most: int) -> bytes:
    if response.status_code != 200:
        raise _refusal(f"the address answers {response.status_code}, not a picture")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _refusal("the address answers in a compressed encoding that was not asked for")
    read = bytearray()
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) > most:
            raise _refusal(f"the picture is over {most:,} bytes")
    return bytes(read)


def _refusal(detail: str) -> Problem:
    return Problem(INVALID_PICTURE, detail, "image_url")
