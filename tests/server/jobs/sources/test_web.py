"""Web servers as sources: which addresses are requested, range requests, and pages that list files."""

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from server.jobs.sources import ImageSource, SourceError, SourceImageFault, open_source, permissions
from server.jobs.sources import web as web_module
from server.jobs.sources.web import open_web_file

ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the response of the path in `responses`: status, headers and content. Honors ranges."""

    protocol_version = "HTTP/1.1"
    responses: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    requests: ClassVar[list[str]] = []
    ranges = True

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        self.requests.append(f"{self.headers['Host']}{self.path}")
        status, headers, content = self.responses.get(self.path, (404, {}, b""))
        wanted = self.headers.get("Range")
        if wanted and self.ranges and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            length = len(content)
            content = content[int(first) : int(last) + 1 if last else None]
            status = 206 if content else 416
            headers = headers | {"Content-Range": f"bytes {first}-{int(first) + len(content) - 1}/{length}"}
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def site() -> Iterator[Any]:
    """Returns a server; its `handler` has the responses, and its `url` ends without a slash."""

    class Handler(_Handler):
        responses: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
        requests: ClassVar[list[str]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.handler = Handler  # type: ignore[attr-defined]
        server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def serve(site: Any, **files: bytes) -> None:
    site.handler.responses.update({f"/{name.replace('__', '.')}": (200, {}, data) for name, data in files.items()})


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Returns the addresses of names; connections to public ones go to this machine."""
    names: dict[str, list[str]] = {}
    original = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        host = host.decode() if isinstance(host, bytes) else host
        if host not in names:
            return original(host, port, *args, **options)
        address = names[host].pop(0) if len(names[host]) > 1 else names[host][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


@pytest.mark.parametrize("name", ["a.jpg", "a.zip", "list.txt", "coco.json", "t.parquet", "folder/"])
def test_a_redirect_to_a_location_that_is_not_allowed_is_not_followed(site: Any, web: str, name: str) -> None:
    site.handler.responses[f"/{name}"] = (302, {"Location": f"{web}/{name}"}, b"")
    with pytest.raises(SourceError, match="not configured to read from there"):
        open_source(f"{site.url}/{name}", is_allowed=permissions.allow_within([site.url]))
    with pytest.raises(SourceError, match="no such file"):  # the command line follows it; nothing is there
        open_source(f"{site.url}/{name}")


def test_images_of_a_list_and_a_page_do_not_lead_elsewhere(
    site: Any, tmp_path: Path, web: str, read_all: ReadAll
) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    moved = (302, {"Location": f"{web}/secret.jpg"}, b"")
    page = b'<a href="/images/moved.jpg">1</a><a href="%s/secret.jpg">2</a><a href="../up.jpg">3</a>' % web.encode()
    serve(site, list__txt=b"images/moved.jpg\n", images__=b"")
    site.handler.responses |= {"/images/moved.jpg": moved, "/images/": (200, {"Content-Type": "text/html"}, page)}
    is_allowed = permissions.allow_within([site.url])
    for address in ("list.txt", "images/"):
        found = read_all(open_source(f"{site.url}/{address}", is_allowed=is_allowed))
        assert list(found.values()) == [SourceImageFault.REFUSED]
    assert list(read_all(open_source(f"{site.url}/images/")).values()) == [b"secret"]


def test_a_name_must_have_public_addresses_unless_they_are_allowed_too(
    site: Any, resolve: dict[str, list[str]], read_all: ReadAll
) -> None:
    serve(site, a__jpg=b"1", b__jpg=b"2")
    resolve["images.example.org"] = ["127.0.0.1"]
    resolve["nas"] = ["127.0.0.1"]
    named = f"http://images.example.org:{site.server_port}"
    with pytest.raises(SourceError, match="not on the public internet"):
        open_source(f"{named}/a.jpg", is_allowed=permissions.allow_within([named]))
    both = permissions.allow_within([named, site.url])
    assert list(read_all(open_source(f"{named}/a.jpg", is_allowed=both)).values()) == [b"1"]
    assert site.handler.requests[-1] == f"images.example.org:{site.server_port}/a.jpg"
    local = f"http://nas:{site.server_port}"
    source = open_source(f"{local}/a.jpg", is_allowed=permissions.allow_within([local]))
    assert list(read_all(source).values()) == [b"1"]


def test_the_address_of_a_name_is_checked_for_every_request(
    site: Any, resolve: dict[str, list[str]], read_all: ReadAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public at first and then leads to this machine (DNS rebinding)."""
    serve(site, a__jpg=b"1")
    resolve["rebind.example.org"] = ["127.0.0.1", "127.0.0.1", "127.0.0.9"]
    monkeypatch.setattr(web_module, "is_public", lambda address: address == "127.0.0.1")
    url = f"http://rebind.example.org:{site.server_port}"
    source = open_source(f"{url}/a.jpg", is_allowed=permissions.allow_within([url]))
    assert list(read_all(source).values()) == [b"1"]
    assert list(read_all(source).values()) == [SourceImageFault.REFUSED]


def test_a_public_server_does_not_redirect_the_command_line_inside(
    site: Any, resolve: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(site, b__jpg=b"1")
    resolve["inside.test"] = ["127.0.0.9"]
    site.handler.responses["/a.jpg"] = (302, {"Location": f"http://inside.test:{site.server_port}/b.jpg"}, b"")
    with pytest.raises(SourceError, match="Connection refused"):  # it tried: nobody says that the first one is public
        open_source(f"{site.url}/a.jpg")
    monkeypatch.setattr(web_module, "is_public", lambda address: address == "127.0.0.1")
    with pytest.raises(SourceError, match="not on the public internet"):
        open_source(f"{site.url}/a.jpg")


def test_a_file_is_read_by_ranges_or_as_a_whole(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_BLOCK", 100)
    data = bytes(range(256)) * 5
    serve(site, data__bin=data, empty__bin=b"")
    for ranges in (True, False):
        site.handler.ranges = ranges
        with open_web_file(f"{site.url}/data.bin", None) as file:
            assert file.read(10) == data[:10]
            assert file.seek(-20, 2) == len(data) - 20
            assert file.read() == data[-20:]
            file.seek(90)
            assert file.read(300) == data[90:390]
            assert file.seek(0, 2) == len(data)
            assert file.read() == b""
        with open_web_file(f"{site.url}/empty.bin", None) as file:
            assert file.read() == b""
    monkeypatch.setattr(web_module, "MAX_FILE_BYTES", 1000)
    with pytest.raises(SourceError, match="larger than 1,000 bytes on a server that sends files only as a whole"):
        open_web_file(f"{site.url}/data.bin", None)


def test_a_file_that_changes_while_it_is_read(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_module, "_BLOCK", 100)
    serve(site, data__bin=bytes(1000))
    with open_web_file(f"{site.url}/data.bin", None) as file:
        serve(site, data__bin=bytes(999))
        file.seek(500)
        with pytest.raises(OSError, match="changed on its server"):
            file.read(10)


def test_pages_are_bounded(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    page = b"<a href=a.jpg><a class='x'  href = 'd/'>d</a>" + b"<a href=" * 1000
    site.handler.responses |= {"/i/": (200, {}, page), "/i/d/": (200, {}, b'<A HREF="b&amp;c%20d.jpg?x=1#y">')}
    assert open_source(f"{site.url}/i/").names == ["a.jpg", "d/b&c d.jpg"]
    monkeypatch.setattr(web_module, "_MAX_PAGES", 1)
    with pytest.raises(SourceError, match="more than 1 folders"):
        open_source(f"{site.url}/i/")
    monkeypatch.setattr(web_module, "_MAX_PAGE_BYTES", 100)
    with pytest.raises(SourceError, match="a page of more than 100 bytes"):
        open_source(f"{site.url}/i/")


def test_compressed_answers_are_refused(site: Any, tmp_path: Path, read_all: ReadAll) -> None:
    site.handler.responses["/a.jpg"] = (200, {"Content-Encoding": "gzip"}, b"x")
    (tmp_path / "list.txt").write_text(f"{site.url}/a.jpg\n")
    assert list(read_all(open_source(str(tmp_path / "list.txt"))).values()) == [SourceImageFault.UNREACHABLE]
