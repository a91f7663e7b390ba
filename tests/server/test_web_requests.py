"""The check of addresses that is shared by `image_url` and the sources of jobs."""

import httpx
import pytest

from server.web_requests import WebAddressError, check_addresses, is_local_name, is_public, parse_url, pin_request


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("2130706433", True),
        ("0x7f.1", True),
        ("0177.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("nas", True),
        ("nas.local", True),
        ("images.lan.", True),
        ("example.org", False),
        ("127.0.0.1.example.org", False),
        ("local.example.org", False),
        ("nas.local.evil.test", False),
    ],
)
def test_hosts_that_only_the_own_network_knows(host: str, expected: bool) -> None:
    assert is_local_name(host) is expected


@pytest.mark.parametrize(
    "url",
    ["", "cat.jpg", "ftp://x/a", "file:///etc/passwd", "http:///a", "http://x:99999/", "http://x:0/", "http://u:p@x/"],
)
def test_urls_that_are_not_requested(url: str) -> None:
    with pytest.raises(WebAddressError):
        parse_url(url)


def test_all_addresses_of_a_host_must_be_allowed() -> None:
    check_addresses(["8.8.8.8", "2001:4860:4860::8888"], is_public)
    for addresses in ([], ["8.8.8.8", "10.0.0.1"], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["169.254.169.254"]):
        with pytest.raises(WebAddressError, match="not on the public internet, or not found"):
            check_addresses(addresses, is_public)


def test_a_request_goes_to_the_address_and_names_the_host() -> None:
    request = pin_request(httpx.URL("https://example.org:8443/a?b=1"), "2001:db8::1", {"Accept": "x"}, 5)
    assert str(request.url) == "https://[2001:db8::1]:8443/a?b=1"
    assert request.headers["host"] == "example.org:8443"
    assert request.headers["accept-encoding"] == "identity"
    assert request.extensions["sni_hostname"] == "example.org"
