"""Pictures are bytes here: no source looks into them."""

import functools
import http.server
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceImageError, SourceImageFault

Read = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


@pytest.fixture
def read() -> Read:
    """All of a source: names, and what each gives."""

    def every(source: ImageSource) -> dict[str, bytes | SourceImageFault]:
        found: dict[str, bytes | SourceImageFault] = {}
        for item in source:
            try:
                found[item.name] = item.read()
            except SourceImageError as error:
                found[item.name] = error.fault
        assert len(found) == len(source)
        return found

    return every


@pytest.fixture
def fill(tmp_path: Path) -> Callable[..., Path]:
    """Makes files, each holding its own name, and gives the folder."""

    def make(*names: str, below: str = "pictures") -> Path:
        for name in names:
            path = tmp_path / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return tmp_path / below

    return make


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server: moto's."""
    server = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    yield f"http://{host}:{port}"
    threaded.stop()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        if not self.path.startswith("/to/"):
            return super().do_GET()
        self.send_response(302)
        self.send_header("Location", self.path.removeprefix("/to"))
        self.end_headers()
        return None


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server over `tmp_path`; /to/… redirects to /…"""
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
