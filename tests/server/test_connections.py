"""Connections: what a socket does not show. The rest is in tests/field/test_http_connections.py."""

import asyncio
from unittest.mock import Mock

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from server.connections import ConnectionLimits, ConnectionPool, HttpProtocol, TransferRate

HEAD = b"POST /v1/prompt HTTP/1.1\r\nHost: florist\r\n"


async def answer(scope: object, receive: object, send: object) -> None:
    await asyncio.Event().wait()


def connect(pool: ConnectionPool) -> tuple[HttpProtocol, Mock]:
    """Returns the server's side of a connection, and its transport."""
    config = uvicorn.Config(answer, log_config=None)
    protocol = HttpProtocol(config, ServerState(), {}, pool=pool)
    transport = Mock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = None
    transport.is_closing.return_value = False
    transport.get_write_buffer_size.return_value = 0
    protocol.connection_made(transport)
    return protocol, transport


async def test_a_request_that_is_not_http_does_not_disturb_the_shutdown() -> None:
    protocol, transport = connect(ConnectionPool(ConnectionLimits()))
    protocol.data_received(HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert transport.write.call_args[0][0].startswith(b"HTTP/1.1 400")
    assert protocol.conn.our_state is h11.SEND_RESPONSE
    protocol.shutdown()
    assert transport.close.called


@pytest.mark.parametrize(("sent", "is_closed"), [(b"", True), (b"a" * 9, True), (b"a" * 200, False)])
async def test_a_body_must_arrive_with_a_least_rate(sent: bytes, is_closed: bool) -> None:
    pool = ConnectionPool(ConnectionLimits(rate=TransferRate(50, 20)))
    protocol, transport = connect(pool)
    protocol.data_received(HEAD + b"Content-Length: 1000\r\n\r\n")
    for second in range(40):  # the first period includes the head
        protocol.check(float(second), 1)
        if second == 20:
            protocol.data_received(sent)
    assert transport.close.called == is_closed


async def test_the_time_in_which_the_server_does_not_read_is_not_the_clients() -> None:
    pool = ConnectionPool(ConnectionLimits(rate=TransferRate(1_000_000, 20)))
    protocol, transport = connect(pool)
    protocol.data_received(HEAD + b"Content-Length: 1000000\r\n\r\n" + b"a" * 100_000)
    assert protocol.flow.read_paused  # the app has not read it yet
    for second in range(100):
        protocol.check(float(second), 1)
    assert not transport.close.called


async def test_rates_are_higher_while_almost_all_connections_are_used() -> None:
    limits = ConnectionLimits(connections=10, rate=TransferRate(1, 1000), full_rate=TransferRate(1000, 5))
    pool = ConnectionPool(limits)
    connected = []
    for count in range(1, 10):
        protocol, transport = connect(pool)
        protocol.data_received(HEAD + b"Content-Length: 1000\r\n\r\na")
        connected.append(transport)
        pool.check(0, 5)
        assert any(each.close.called for each in connected) == (count == 9)


async def test_the_connection_that_waits_the_longest_makes_room() -> None:
    pool = ConnectionPool(ConnectionLimits(connections=2, spared_seconds=0))
    first, first_transport = connect(pool)
    _, second_transport = connect(pool)
    first.data_received(HEAD + b"Content-Length: 1\r\n\r\n")  # it has a request now
    connect(pool)
    assert second_transport.close.called
    assert not first_transport.close.called
    assert len(pool.open) == 2
