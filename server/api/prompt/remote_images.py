"""Fetches images from URLs that clients send, without letting them reach the private network.

The host of every URL, also of redirects, is resolved here. All its addresses must be public. The connection then goes
to the address that was checked, so that a second DNS lookup cannot return another one (DNS rebinding).
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

import httpx

from server.api.problems import INVALID_IMAGE, ProblemError

_MAX_REDIRECTS = 3
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Resolver = Callable[[str, int], Awaitable[list[str]]]


def is_public(address: str) -> bool:
    """Returns whether an IP address belongs to the public internet. Unwraps IPv4 addresses within IPv6 ones."""
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
        if ip.is_site_local or int(ip) < 1 << 32:  # the latter are IPv4-compatible addresses, which are deprecated
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_link_local)


async def resolve_host(host: str, port: int) -> list[str]:
    """Returns the IP addresses of a host. Numbers in any notation that sockets accept are hosts too."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in entries]


async def fetch_image(
    url: str,
    max_bytes: int,
    timeout: float,
    *,
    is_allowed: Callable[[str], bool] = is_public,
    resolve: Resolver = resolve_host,
) -> bytes:
    """Returns the content of a URL: at most `max_bytes`, within `timeout` seconds. Raises ProblemError."""
    try:
        async with asyncio.timeout(timeout), httpx.AsyncClient(trust_env=False, timeout=timeout) as client:
            for _ in range(_MAX_REDIRECTS + 1):
                target = _parse_url(url)
                address = await _resolve_target(target, is_allowed, resolve)
                request = client.build_request(
                    "GET",
                    target.copy_with(host=address),
                    # Without compression: decompressed content could be a thousand times larger than what was counted.
                    headers={"Host": target.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"},
                    extensions={"sni_hostname": target.raw_host.decode("ascii")},
                )
                response = await client.send(request, stream=True)
                try:
                    if not response.is_redirect:
                        return await _read_content(response, max_bytes)
                    url = str(target.join(response.headers["location"]))
                finally:
                    await response.aclose()
    except TimeoutError:
        raise _create_problem(f"the image did not arrive within {timeout:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        # Without the reason: it could tell a client about hosts that it cannot reach itself.
        raise _create_problem("the image could not be fetched; send it as `image`") from None
    raise _create_problem(f"the URL redirects more than {_MAX_REDIRECTS} times")


def _parse_url(url: str) -> httpx.URL:
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise _create_problem("this is not a URL; it must look like https://example.org/cat.jpg") from None
    if target.scheme not in ("http", "https") or not target.host:
        raise _create_problem("the URL must start with http:// or https:// and contain a host")
    if target.port is not None and not 0 < target.port < 65536:
        raise _create_problem("the URL has an invalid port; it must be 1 to 65535")
    if target.userinfo:
        raise _create_problem("the URL contains a user name or password; remove it")
    return target


async def _resolve_target(target: httpx.URL, is_allowed: Callable[[str], bool], resolve: Resolver) -> str:
    """Returns the address to connect to. All addresses of the host must be allowed."""
    try:
        addresses = await resolve(target.raw_host.decode("ascii"), target.port or 0)
    except (OSError, UnicodeError):
        addresses = []
    if not addresses or not all(map(is_allowed, addresses)):
        # The same message for both cases: it does not tell which private names exist.
        raise _create_problem("its host is not on the public internet, or not found; send the image as `image`")
    return addresses[0]


async def _read_content(response: httpx.Response, max_bytes: int) -> bytes:
    if response.status_code != 200:
        raise _create_problem(f"the URL answers {response.status_code}, not an image")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise _create_problem("the URL answers with compressed content, which was not requested")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise _create_problem(f"the image is over {max_bytes:,} bytes")
    return bytes(content)


def _create_problem(detail: str) -> ProblemError:
    return ProblemError(INVALID_IMAGE, detail, "image_url")
