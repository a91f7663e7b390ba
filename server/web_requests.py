"""Which web addresses may be requested for someone else: the check of `image_url` and of the sources of jobs.

A host is resolved here, all its addresses are checked, and the connection goes to an address that was checked. A second
DNS lookup could return another one (DNS rebinding). Callers follow redirects themselves and check each of them.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence

import httpx

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Names that no public DNS server answers, besides those without a dot (RFC 6762, RFC 8375, RFC 9476 and common use).
_LOCAL_SUFFIXES = (".local", ".localhost", ".internal", ".lan", ".home.arpa")


class WebAddressError(ValueError):
    """A URL that is not requested. The message says why."""


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


def is_local_name(host: str) -> bool:
    """Returns whether a host is an IP address in any notation, or a name that only the own network knows."""
    host = host.rstrip(".").lower()
    return ":" in host or "." not in host or host.endswith(_LOCAL_SUFFIXES) or host.rpartition(".")[2][:1].isdigit()


def parse_url(url: str, *, allow_userinfo: bool = False) -> httpx.URL:
    """Returns an http or https URL with a host and a valid port. Raises WebAddressError."""
    try:
        target = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise WebAddressError("this is not a URL; it must look like https://example.org/cat.jpg") from None
    if target.scheme not in ("http", "https") or not target.host:
        raise WebAddressError("the URL must start with http:// or https:// and contain a host")
    if target.port is not None and not 0 < target.port < 65536:
        raise WebAddressError("the URL has an invalid port; it must be 1 to 65535")
    if target.userinfo and not allow_userinfo:
        raise WebAddressError("the URL contains a user name or password; remove it")
    return target


def check_addresses(addresses: Sequence[str], is_allowed: Callable[[str], bool]) -> None:
    """Raises WebAddressError unless a host has addresses and all are allowed."""
    if not addresses or not all(map(is_allowed, addresses)):
        # The same message for both cases: it does not tell which private names exist.
        raise WebAddressError("its host is not on the public internet, or not found")


def pin_request(target: httpx.URL, address: str, headers: Mapping[str, str], timeout: float) -> httpx.Request:
    """Returns a GET request for `target` that connects to `address`. TLS still checks the name of the host.

    `timeout` is in seconds, of the connection and between two bytes. Asks for content
    without compression: decompressed content could be a thousand times larger than what was counted.
    """
    return httpx.Request(
        "GET",
        target.copy_with(host=address),
        headers={"Host": target.netloc.decode("ascii"), "Accept-Encoding": "identity", **headers},
        extensions={
            "sni_hostname": target.raw_host.decode("ascii"),
            "timeout": httpx.Timeout(timeout).as_dict(),
        },
    )
