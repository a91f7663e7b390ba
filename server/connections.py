"""HTTP connections: how long the server waits for a client, and how many clients it has at a time.

uvicorn waits without limit for a client that has sent half a request, or that does not read its response.
`HttpProtocol` is uvicorn's protocol with limits. A connection is closed when

- the head of its request (request line and headers) is not complete within `ConnectionLimits.head_seconds`;
- its client sends a body, or reads a response, more slowly than a `TransferRate`;
- the limit of connections is reached and it is the one that has waited for a request for the longest.

`ConnectionPool.check` applies the first two. `ServerProcess` calls it every second.
"""

import asyncio
import logging
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.api.problems import (
    BAD_REQUEST,
    BODY_TIMEOUT,
    HEAD_TIMEOUT,
    HEAD_TOO_LARGE,
    MEDIA_TYPE,
    SHUTTING_DOWN,
    TOO_MANY_CONNECTIONS,
    ProblemError,
    ProblemKind,
)

MAX_HEAD_BYTES = 16 * 1024  # request line and headers, as in most servers
MAX_HEADERS = 128
MAX_SMALL_CHUNKS = 20_000  # parsing a chunk costs microseconds, however small it is
SMALL_CHUNK_BYTES = 256
_MAX_REFUSED = 256  # connections over the limit that are told so; more are closed at once
_REFUSED_SECONDS = 2.0  # a refused client gets its answer while it still sends
_UNREAD_SECONDS = 30.0  # how long the rest of a body is read and dropped after the response
_MAX_SHARE = 0.95  # of the connections that one address may have: probes and others are served
_FULL = 0.9  # share of the limit from which the rates of `ConnectionLimits.full_rate` hold
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransferRate:
    """The least that a client must send or read: `size` bytes in each `seconds` that the server waits for it."""

    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of connections.

    Attributes:
        connections: How many may be open, at most 95 % of them from one address. A client beyond it gets 503.
        head_seconds: How long the head of a request may take, from connecting or from its first byte.
        idle_seconds: How long a connection stays open between two requests.
        spared_seconds: A connection that waits for a request for less than this is not closed for another one.
        rate: The least that a client must send of a body or read of a response.
        full_rate: The same while almost all connections are in use.
    """

    connections: int = 1000
    head_seconds: float = 15
    idle_seconds: int = 5
    spared_seconds: float = 1
    rate: TransferRate = TransferRate(10_000, 20)
    full_rate: TransferRate = TransferRate(50_000, 5)


@dataclass
class ConnectionPool:
    """The connections of a server. `counts`: how many were closed, by reason, since they were last logged."""

    limits: ConnectionLimits
    open: "set[HttpProtocol]" = field(default_factory=set)
    by_address: Counter[str] = field(default_factory=Counter)  # how many of the open ones
    # Those that wait for a request, longest first, with the time since when.
    waiting: "dict[HttpProtocol, float]" = field(default_factory=dict)
    refused: "set[HttpProtocol]" = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def make_room(self, now: float, address: str) -> bool:
        """Returns whether an address may open one more connection. At a limit, closes one that waits, the longest."""
        is_shared = self.by_address[address] < max(_MAX_SHARE * self.limits.connections, 1)
        if is_shared and len(self.open) < self.limits.connections:
            return True
        oldest = next((each for each in self.waiting if is_shared or each.address == address), None)
        if oldest is None or now - self.waiting[oldest] < self.limits.spared_seconds:
            return False
        self.count("closed while idle, for new ones")
        self.forget(oldest)
        oldest.transport.close()
        return True

    def add(self, connection: "HttpProtocol", now: float) -> None:
        """Adds a connection that has been opened."""
        self.open.add(connection)
        self.by_address[connection.address] += 1
        self.waiting[connection] = now

    def check(self, now: float, seconds: float) -> None:
        """Closes the connections that have waited for their client for too long.

        `seconds`: since the last call, without the time in which the event loop was busy.
        """
        for connection in list(self.open):
            connection.check(now, seconds)

    def refuse_bodies(self) -> None:
        """Ends requests whose body has not arrived yet: the server is shutting down."""
        for connection in list(self.open):
            connection.refuse_body()

    def count(self, reason: str) -> None:
        """Counts a connection that is closed for this reason."""
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def forget(self, connection: "HttpProtocol") -> None:
        """Removes a connection that is closed."""
        if connection in self.open:
            self.open.remove(connection)
            self.by_address -= Counter({connection.address: 1})
        self.waiting.pop(connection, None)
        self.refused.discard(connection)

    def log_counts(self) -> None:
        """Logs how many connections were closed since the last call, one line per reason."""
        for reason, count in self.counts.items():
            logger.warning("connections %s: %d (%d are open)", reason, count, len(self.open))
        self.counts.clear()


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, within the limits of a pool."""

    def __init__(self, *args: Any, pool: ConnectionPool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool, self.address = pool, ""
        self.conn = _RequestParser(h11.SERVER, MAX_HEAD_BYTES)
        self.received = self.sent = 0
        self._receiving, self._sending = _Wait(), _Wait()
        self._answered_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        now = self.loop.time()
        self.address = str((transport.get_extra_info("peername") or ("unknown",))[0])
        if not self.pool.make_room(now, self.address):
            self._refuse(transport)
            return
        self.pool.add(self, now)
        super().connection_made(_CountingTransport(transport, self))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self in self.pool.refused:
            return
        self.received += len(data)
        super().data_received(data)
        self._update_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.pool.refused:
            self.pool.refused.discard(self)
            return
        self.pool.forget(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._answered_at = self.loop.time()
        super().on_response_complete()
        self._update_waiting()

    def shutdown(self) -> None:
        """Closes the connection, or lets it end with its response. uvicorn calls it when the server stops."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # after a request that is not HTTP
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that is not HTTP. uvicorn calls it while it handles the error of the parser."""
        error = sys.exception()
        if getattr(error, "error_status_hint", 400) == 431:
            detail = f"the limit is {MAX_HEAD_BYTES:,} bytes with the URL, and {MAX_HEADERS} headers; send fewer"
            self._answer_and_close(HEAD_TOO_LARGE, detail)
        else:
            self._answer_and_close(BAD_REQUEST, f"the request is not accepted: {str(error)[:200]}")

    def check(self, now: float, seconds: float) -> None:
        """Closes the connection if its client is too slow. `seconds`: see `ConnectionPool.check`."""
        limits = self.pool.limits
        rate = limits.full_rate if len(self.pool.open) >= _FULL * limits.connections else limits.rate
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            if self._sending.is_slow(rate, self.sent - unsent, seconds):
                self.pool.count("closed because the response is read too slowly")
                self.pool.forget(self)
                self.transport.abort()
        elif self._is_receiving_body:
            slow = not self.flow.read_paused and self._receiving.is_slow(rate, self.received, seconds)
            answered = self.cycle is not None and self.cycle.response_complete
            if slow or (answered and now - self._answered_at > _UNREAD_SECONDS):
                self.pool.count("closed because a body arrives too slowly")
                detail = f"less than {rate.size:,} bytes of the body arrived within {rate.seconds:g} s"
                self._answer_and_close(BODY_TIMEOUT, f"{detail}; use a faster connection")
        elif self.pool.waiting.get(self, now) < now - limits.head_seconds:
            self.pool.count("closed because no request arrives")
            detail = f"the headers did not arrive within {limits.head_seconds:g} s"
            self._answer_and_close(HEAD_TIMEOUT, detail)

    def refuse_body(self) -> None:
        """Answers that the server is shutting down, and closes the connection, if a body has not arrived yet."""
        if self._is_receiving_body:
            self._answer_and_close(SHUTTING_DOWN, "the server stopped before the body arrived; retry soon")

    def _should_upgrade(self) -> bool:
        return False  # uvicorn logs each request for a WebSocket; the server has none, and answers as without Upgrade

    def _update_waiting(self) -> None:
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.pool.waiting.setdefault(self, self.loop.time())
        else:
            self.pool.waiting.pop(self, None)

    @property
    def _is_receiving_body(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY

    def _refuse(self, transport: asyncio.Transport) -> None:
        self.pool.count("refused because too many are open")
        if len(self.pool.refused) >= _MAX_REFUSED:
            transport.abort()
            return
        self.pool.refused.add(self)
        detail = (
            f"the server has {len(self.pool.open)} connections, {self.pool.by_address[self.address]} of them from your "
            f"address; its limit is {self.pool.limits.connections}; retry soon"
        )
        transport.write(_create_response(TOO_MANY_CONNECTIONS, detail))
        # Closing at once would discard the answer: the client has not sent its request yet.
        transport.write_eof()
        self.loop.call_later(_REFUSED_SECONDS, transport.abort)

    def _answer_and_close(self, kind: ProblemKind, detail: str) -> None:
        """Answers with a problem unless a response has begun, and closes the connection."""
        self.pool.forget(self)
        answering = self.cycle is not None and not self.cycle.response_complete
        has_begun = answering and self.cycle.response_started
        unasked = not self.received  # a client that has sent nothing expects no answer
        if answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not has_begun and not unasked and not self._is_unread:
            self.transport.write(_create_response(kind, detail))
        self.transport.close()
        self.loop.call_later(_REFUSED_SECONDS, self.transport.abort)

    @property
    def _is_unread(self) -> bool:
        """Whether the body of a request that is answered already still arrives."""
        return self._is_receiving_body and self.cycle is not None and self.cycle.response_complete


class _RequestParser(h11.Connection):
    """h11's parser, stricter: no heads and no chunks that are costly to parse, and no ambiguous framing."""

    def __init__(self, role: type[h11.SERVER], max_incomplete_event_size: int) -> None:
        super().__init__(role, max_incomplete_event_size)
        self._chunks = self._chunk_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._chunk_bytes = 0
            self._check_head(event)
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._chunk_bytes += len(event.data)
            if self._chunks > MAX_SMALL_CHUNKS and self._chunk_bytes < SMALL_CHUNK_BYTES * self._chunks:
                raise h11.RemoteProtocolError(
                    f"the body has more than {MAX_SMALL_CHUNKS:,} chunks of less than {SMALL_CHUNK_BYTES} bytes; "
                    "send larger ones"
                )
        return event

    def _check_head(self, request: h11.Request) -> None:
        # h11 checks the size of a head only while it is incomplete.
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if size > MAX_HEAD_BYTES or len(request.headers) > MAX_HEADERS:
            raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
        if request.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("use HTTP/1.1")
        # A proxy may read the other header, and take a part of the body for the next request (RFC 9112, section 6.1).
        names = {name for name, _ in request.headers}
        if b"transfer-encoding" in names and (b"content-length" in names or request.http_version < b"1.1"):
            raise h11.RemoteProtocolError("the length of the body is ambiguous; send one header for it, with HTTP/1.1")


class _Wait:
    """How many bytes have passed while the server waited for a client."""

    def __init__(self) -> None:
        self.seconds, self.start = 0.0, 0

    def is_slow(self, rate: TransferRate, size: int, seconds: float) -> bool:
        """Returns whether less has passed than the rate asks for. `size`: all bytes until now."""
        self.seconds += seconds
        if self.seconds < rate.seconds:
            return False
        slow = size - self.start < rate.size
        self.seconds, self.start = 0.0, size
        return slow


class _CountingTransport:
    """A transport that counts the bytes that the protocol writes."""

    def __init__(self, transport: asyncio.Transport, protocol: HttpProtocol) -> None:
        self._transport, self._protocol = transport, protocol

    def write(self, data: bytes) -> None:
        self._protocol.sent += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _create_response(kind: ProblemKind, detail: str) -> bytes:
    response = ProblemError(kind, detail).to_response()
    lines = [f"HTTP/1.1 {kind.status} {kind.title}".encode(), b"connection: close"]
    if kind.status == 503:
        lines.append(b"retry-after: 1")
    lines += [b"content-type: " + MEDIA_TYPE.encode(), b"content-length: " + str(len(response.body)).encode()]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
