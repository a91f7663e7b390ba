"""Fixtures of sources. Images are any bytes here, since sources do not decode them."""

import functools
import http.server
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.jobs.sources import ImageSource, SourceImageError, SourceImageFault

ReadAll = Callable[[ImageSource], dict[str, bytes | SourceImageFault]]


@pytest.fixture
def read_all() -> ReadAll:
    """Returns a function that reads a source: names, and the bytes of each image or why it cannot be read."""

    def read_source(source: ImageSource) -> dict[str, bytes | SourceImageFault]:
        content: dict[str, bytes | SourceImageFault] = {}
        for image in source:
            try:
                content[image.name] = image.read()
            except SourceImageError as error:
                content[image.name] = error.fault
        assert len(content) == len(source)
        return content

    return read_source


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[..., Path]:
    """Returns a function that writes files with their own names as content, and returns their folder."""

    def write(*names: str, below: str = "images") -> Path:
        for name in names:
            path = tmp_path / below / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return tmp_path / below

    return write


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Returns the address of an S3 server (moto)."""
    server = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    threaded.start()
    host, port = threaded.get_host_and_port()
    yield f"http://{host}:{port}"
    threaded.stop()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
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
    """Returns the address of a web server for `tmp_path`. It redirects /to/… to /…"""
    handler = functools.partial(_QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
