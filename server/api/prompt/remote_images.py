"""Fetches images from URLs that clients send, without letting them reach the private network.

The host of every URL, also of redirects, is resolved here. All its addresses must be public. The connection then goes
to the address that was checked, so that a second DNS lookup cannot return another one (DNS rebinding).
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import httpx

from server.api.problems import INVALID_IMAGE, ProblemError
from server.web_requests import WebAddressError, check_addresses, is_public, parse_url, pin_request

_MAX_REDIRECTS = 3
Resolver = Callable[[str, int], Awaitable[list[str]]]


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
                target = parse_url(url)
                address = await _resolve_target(target, is_allowed, resolve)
                request = pin_request(target, address, {"Accept": "image/*"}, timeout)
                response = await client.send(request, stream=True)
                try:
                    if not response.has_redirect_location:
                        return await _read_content(response, max_bytes)
                    url = str(target.join(response.headers["location"]))
                finally:
                    await response.aclose()
    except WebAddressError as error:
        raise _create_problem(f"{error}; send the image as `image`") from None
    except TimeoutError:
        raise _create_problem(f"the image did not arrive within {timeout:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        # Without the reason: it could tell a client about hosts that it cannot reach itself.
        raise _create_problem("the image could not be fetched; send it as `image`") from None
    raise _create_problem(f"the URL redirects more than {_MAX_REDIRECTS} times")


async def _resolve_target(target: httpx.URL, is_allowed: Callable[[str], bool], resolve: Resolver) -> str:
    """Returns the address to connect to. All addresses of the host must be allowed."""
    try:
        addresses = await resolve(target.raw_host.decode("ascii"), target.port or 0)
    except (OSError, UnicodeError):
        addresses = []
    check_addresses(addresses, is_allowed)
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
