"""Fetching images from URLs: which addresses are refused, and what is downloaded."""

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from server.api.problems import ProblemError
from server.api.prompt.remote_images import fetch_image, resolve_host
from server.api.sample_image import draw_sample_image
from server.web_requests import is_public


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "fe80::1", "fe80::1%eth0", "fc00::1"),
        *("fec0::1", "ff02::1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:db8::1", "nonsense", ""),
    ],
)
def test_these_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_these_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/x", "http://localhost/x", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/"),
        *("http://127.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0/", "http://169.254.169.254/latest"),
        *("ftp://example.org/", "file:///etc/passwd", "http:///x", "nothing", "http://user:secret@1.1.1.1/x"),
        *(
            "http://" + "a" * 300 + ".example/",
            "http://exa mple/",
            "http://1.1.1.1:99999/",
            "//1.1.1.1/x",
            "http://[::1",
        ),
    ],
)
async def test_these_urls_are_refused_before_a_request_is_sent(url: str) -> None:
    with pytest.raises(ProblemError) as refused:
        await fetch_image(url, 1000, 5)
    assert refused.value.field == "image_url"
    assert "secret" not in refused.value.detail


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        image = draw_sample_image()
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/ok": (200, {"Content-Length": str(len(image))}, image),
            "/moved": (302, {"Location": "/ok"}, b""),
            "/inward": (302, {"Location": "http://internal.test/ok"}, b""),
            "/scheme": (302, {"Location": "file:///etc/passwd"}, b""),
            "/loop": (302, {"Location": "/loop"}, b""),
            "/endless": (200, {}, b"x" * 100_000),
            "/packed": (200, {"Content-Encoding": "gzip"}, b"x"),
            "/none": (404, {}, b""),
            "/nowhere": (302, {}, b""),
        }
        status, headers, body = answers[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.server.hosts.append(self.headers["Host"])  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.hosts = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


async def resolve_test_host(host: str, _: int) -> list[str]:
    """Resolves the hosts of the tests to loopback addresses. The test treats one of them as public."""
    return {"site.test": ["127.0.0.1"], "internal.test": ["127.0.0.9"], "both.test": ["127.0.0.1", "10.0.0.1"]}[host]


async def fetch_from(site: Any, path: str, host: str = "site.test", max_bytes: int = 10_000) -> bytes:
    url = f"http://{host}:{site.server_address[1]}{path}"
    return await fetch_image(
        url, max_bytes, 5, is_allowed=lambda address: address == "127.0.0.1", resolve=resolve_test_host
    )


async def test_the_image_comes_from_the_address_that_was_checked(site: Any) -> None:
    assert await fetch_from(site, "/ok") == draw_sample_image()
    assert await fetch_from(site, "/moved") == draw_sample_image()
    assert site.hosts[-1] == f"site.test:{site.server_address[1]}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/inward", "not on the public internet"),
        ("/scheme", "http"),
        ("/loop", "redirects more than 3 times"),
        ("/endless", "over 10,000 bytes"),
        ("/packed", "compressed"),
        ("/none", "answers 404"),
        ("/nowhere", "answers 302"),
    ],
)
async def test_these_responses_are_refused(site: Any, path: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        await fetch_from(site, path)


async def test_a_host_with_one_private_address_is_refused(site: Any) -> None:
    with pytest.raises(ProblemError, match="not on the public internet"):
        await fetch_from(site, "/ok", "both.test")


async def test_the_time_is_limited() -> None:
    async def never(*_: Any) -> list[str]:
        import asyncio

        await asyncio.sleep(60)
        return []

    with pytest.raises(ProblemError, match=r"within 0\.1 s"):
        await fetch_image("http://slow.test/", 10, 0.1, resolve=never)


async def test_host_names_are_resolved() -> None:
    assert set(await resolve_host("localhost", 80)) <= {"127.0.0.1", "::1"}
