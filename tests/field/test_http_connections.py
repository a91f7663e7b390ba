"""Clients that send or read slowly, open many connections, or send what is not quite HTTP."""

import errno
import http.client
import json
import logging
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from server.api.prompt.examples import create_prompt_examples
from server.app import create_app
from server.connections import MAX_SMALL_CHUNKS, ConnectionLimits, TransferRate
from server.logs import RepeatFilter
from server.process import ServerProcess
from server.settings import Settings
from tests.server.helpers import TIMEOUT, StuckEngine, run_app, wait_until

BODY = json.dumps(create_prompt_examples()["detect"]["value"]).encode()
POST = b"POST /v1/prompt HTTP/1.1\r\nHost: florist\r\nContent-Type: application/json\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: florist\r\n"
SHORT = ConnectionLimits(head_seconds=0.2, rate=TransferRate(10_000, 0.2))


@pytest.fixture
def stuck() -> StuckEngine:
    return StuckEngine()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that the tests do not change."""
    with run_app(create(StuckEngine())) as (_, chosen):
        yield chosen


def create(stuck: StuckEngine) -> FastAPI:
    return create_app(Settings(), stuck)  # type: ignore[arg-type]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT)


def read_all(client: socket.socket) -> bytes:
    """Returns all bytes until the server closes the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            received += data
    return bytes(received)


def exchange(port: int, request: bytes) -> bytes:
    with connect(port) as client:
        client.sendall(request)
        return read_all(client)


def get_type(response: bytes) -> tuple[int, str]:
    """Returns the status and the type of a problem."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), json.loads(body)["type"].rpartition(":")[2]


@contextmanager
def open_many(port: int, count: int, start: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(count)]
        for client in clients:
            client.sendall(start)
        yield clients


def is_served(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=TIMEOUT).status_code == 200


@pytest.mark.situation("H1", "100 clients that send headers slowly")
def test_heads_that_do_not_arrive_time_out(stuck: StuckEngine) -> None:
    with run_app(create(stuck), SHORT) as (server, port), open_many(port, 100, GET + b"X-A: ") as clients:
        assert is_served(port)
        for client in clients:
            with suppress(OSError):
                client.sendall(b"b")  # a byte now and then does not help
        assert {get_type(read_all(client)) for client in clients} == {(408, "head-timeout")}
        wait_until(lambda: not server.pool.open)


@pytest.mark.situation("H1", "clients that connect and send nothing")
def test_connections_without_a_request_are_closed(stuck: StuckEngine) -> None:
    with run_app(create(stuck), SHORT) as (_, port), open_many(port, 20, b"") as clients:
        assert {read_all(client) for client in clients} == {b""}


@pytest.mark.situation("H2", "100 clients that send bodies slowly")
@pytest.mark.parametrize("head", [b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n8\r\n"])
def test_bodies_that_do_not_arrive_time_out(stuck: StuckEngine, head: bytes) -> None:
    app = create(stuck)
    with run_app(app, SHORT) as (server, port), open_many(port, 100, POST + head + b'{"image') as clients:
        assert is_served(port)
        assert {get_type(read_all(client)) for client in clients} == {(408, "body-timeout")}
        wait_until(lambda: not server.pool.open and not app.state.lifecycle.running)


@pytest.mark.situation("H2", "a body that goes on after its answer")
def test_the_rest_of_a_refused_body_is_not_awaited_forever(stuck: StuckEngine) -> None:
    request = b"DELETE /v1/tasks HTTP/1.1\r\nHost: florist\r\nContent-Length: 1000\r\n\r\nx"
    with run_app(create(stuck), SHORT) as (_, port):
        assert get_type(exchange(port, request)) == (405, "method-not-allowed")


@pytest.mark.situation("H3", "a client that does not read what it downloads")
def test_responses_that_are_not_read_are_ended(stuck: StuckEngine) -> None:
    app = create(stuck)
    ended = []

    async def generate() -> AsyncIterator[bytes]:
        try:
            for _ in range(100):
                yield b"x" * (1 << 20)
        finally:
            ended.append(True)

    app.add_api_route("/download", lambda: StreamingResponse(generate()))
    with run_app(app, SHORT) as (server, port), connect(port) as client:
        client.sendall(b"GET /download HTTP/1.1\r\nHost: florist\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        wait_until(lambda: not server.pool.open and ended)
        # One that reads gets all of it.
        with httpx.stream("GET", f"http://127.0.0.1:{port}/download", timeout=TIMEOUT) as response:
            assert sum(map(len, response.iter_bytes())) == 100 << 20


@pytest.mark.situation("H4", "more idle connections than the server may have")
def test_idle_connections_make_room(stuck: StuckEngine) -> None:
    limits = ConnectionLimits(connections=20, head_seconds=1000, idle_seconds=1000, spared_seconds=0)
    with run_app(create(stuck), limits) as (server, port), ExitStack() as stack:
        busy = stack.enter_context(connect(port))
        busy.sendall(POST + f"Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
        wait_until(lambda: stuck.handles)
        kept = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)))
        for _ in range(100):
            stack.enter_context(connect(port))
            kept.request("GET", "/healthz")  # used all the time: never the one that waits the longest
            assert kept.getresponse().read()
        assert is_served(port)
        assert len(server.pool.open) <= 20
        stuck.finish(0, [])
        assert busy.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.situation("H4", "more busy connections than the server may have")
def test_connections_over_the_limit_are_refused(stuck: StuckEngine) -> None:
    request = POST + f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n".encode() + BODY
    with (
        run_app(create(stuck), ConnectionLimits(connections=40)) as (server, port),
        open_many(port, 38, request) as clients,
    ):
        wait_until(lambda: len(stuck.handles) == 38)
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
            assert other.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        for _ in range(10):
            refused = httpx.post(f"http://127.0.0.1:{port}/v1/prompt", content=BODY, timeout=TIMEOUT)
            assert refused.status_code == 503
            assert refused.json()["type"] == "urn:florist:problem:too-many-connections"
            assert int(refused.headers["retry-after"]) >= 1
        for index in range(38):
            stuck.finish(index, [])
        assert all(read_all(client).startswith(b"HTTP/1.1 200") for client in clients)
        wait_until(lambda: not server.pool.open)
        assert is_served(port)


@pytest.mark.situation("H4", "no file descriptors for new connections")
def test_the_server_goes_on_after_it_could_not_accept(stuck: StuckEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(RepeatFilter())
    failures = 0
    accept = socket.socket.accept

    def fail_at_first(listener: socket.socket) -> tuple[socket.socket, object]:
        nonlocal failures
        if (failures := failures + 1) <= 100:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(listener)

    logging.getLogger("server").addHandler(handler)
    try:
        with run_app(create(stuck)) as (_, port):
            monkeypatch.setattr(socket.socket, "accept", fail_at_first)
            assert is_served(port)
    finally:
        logging.getLogger("server").removeHandler(handler)
    assert failures > 100
    assert lines.count("cannot accept connections: Too many open files") == 1


CHUNK = b"1\r\n[\r\n"


@pytest.mark.situation("H5", "requests that are not quite HTTP")
@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10 + b"\r\n\r\n", (400, "bad-request")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "bad-request")),
        (b"GET /healthz HTTP/1.1\r\n\r\n", (400, "bad-request")),
        (GET + b"Bad Header: 1\r\n\r\n", (400, "bad-request")),
        (GET + b"Content-Length: -1\r\n\r\n", (400, "bad-request")),
        (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", (400, "bad-request")),
        (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET", (400, "bad-request")),
        (POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", (400, "bad-request")),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", (400, "bad-request")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", (400, "bad-request")),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * (MAX_SMALL_CHUNKS + 2), (400, "bad-request")),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: florist\r\n\r\n", (431, "head-too-large")),
        (GET + b"A: 1\r\n" * 1000 + b"\r\n", (431, "head-too-large")),
        (GET + b"Cookie: " + b"a" * 17_000 + b"\r\n\r\n", (431, "head-too-large")),
        (GET + b"Cookie: " + b"a" * 17_000, (431, "head-too-large")),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else None,
)
def test_malformed_requests_are_refused(port: int, request_bytes: bytes, expected: tuple[int, str]) -> None:
    assert get_type(exchange(port, request_bytes)) == expected
    assert is_served(port)


def test_the_answer_says_what_is_not_accepted(port: int) -> None:
    ambiguous = exchange(port, POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"ambiguous" in ambiguous
    for head in (b"A: 1\r\n" * 1000 + b"\r\n", b"Cookie: " + b"a" * 17_000):
        assert b"16,384 bytes" in exchange(port, GET + head)
    assert b"20,000 chunks" in exchange(port, POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 20_002)


@pytest.mark.situation("H6", "rare but valid HTTP")
def test_rare_requests_are_answered(stuck: StuckEngine) -> None:
    close = b"Connection: close\r\n\r\n"
    with run_app(create(stuck)) as (_, port):
        upgrade = GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\n"
        assert exchange(port, upgrade + GET + close).count(b"HTTP/1.1 200") == 2
        assert exchange(port, GET.replace(b"GET", b"OPTIONS") + close).startswith(b"HTTP/1.1 405")
        assert exchange(port, b"OPTIONS * HTTP/1.1\r\nHost: florist\r\n" + close).startswith(b"HTTP/1.1 404")
        assert exchange(port, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n" + close).startswith(b"HTTP/1.1 404")
        assert exchange(port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
        head = exchange(port, GET.replace(b"GET", b"HEAD") + close)
        assert head.startswith(b"HTTP/1.1 200")
        assert head.endswith(b"\r\n\r\n")
        pipelined = exchange(port, (GET + b"\r\n") * 200 + GET + close)
        assert pipelined.count(b"HTTP/1.1 200") == 201
        # A client that asks before it sends a body learns that it is too large, without sending it.
        asking = POST + b"Expect: 100-continue\r\nContent-Length: 999999999\r\n"
        with connect(port) as client:
            client.sendall(asking + close)
            assert client.recv(1000).startswith(b"HTTP/1.1 413")
        with connect(port) as client:
            client.sendall(asking.replace(b"999999999", b"2") + close)
            assert client.recv(1000).startswith(b"HTTP/1.1 100")
            client.sendall(b"{}")
            assert client.recv(1000).startswith(b"HTTP/1.1 422")


@pytest.mark.situation("H7", "requests on a connection that is kept open")
def test_kept_connections_are_as_fast_as_new_ones(stuck: StuckEngine) -> None:
    def measure(connection: http.client.HTTPConnection) -> float:
        started = time.perf_counter()
        connection.request("POST", "/v1/prompt", b"{}", {"Content-Type": "application/json"})
        assert connection.getresponse().read()
        return time.perf_counter() - started

    with run_app(create(stuck)) as (server, port):
        kept, new = [], []
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as connection:
            measure(connection)
            assert no_delay(server)
            for _ in range(25):
                kept.append(measure(connection))
                with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)) as other:
                    new.append(measure(other))
        # With Nagle's algorithm, a kept one waits 40 ms for the client's delayed acknowledgment: 20 to 40 times.
        assert statistics.median(kept) < 5 * statistics.median(new)


def no_delay(server: ServerProcess) -> bool:
    (connection,) = server.pool.open
    accepted = connection.transport.get_extra_info("socket")
    return bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
