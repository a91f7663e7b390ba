"""The server process: its socket, its signals and its exit code."""

import asyncio
import ipaddress
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import uvicorn

from server.settings import Settings, find_unknown_variables, get_option_name, get_variable_name
from server.store.text import is_url

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.connections import ConnectionLimits, ConnectionPool
    from server.lifecycle import Lifecycle

_SEND_TIMEOUT = 3  # seconds to send the last responses after all requests have ended
_CLOSE_TIMEOUT = 5.0  # seconds after the shutdown timeout, to send the last responses and to close jobs and projects
_CHECK_TICKS, _LOG_TICKS = 10, 100  # uvicorn ticks ten times a second
_BACKLOG = 2048  # connections that the kernel keeps until the server accepts them
_ACCEPTS = 64  # connections accepted at a time, before the limit is checked
_MAX_FILES = 65_536  # no server needs more, and some systems allow a billion
_OWN_FILES = 256  # descriptors for models, the database, sources and exports
logger = logging.getLogger(__name__)


class ListenError(OSError):
    """The server cannot listen on the address."""


class ServerProcess(uvicorn.Server):
    """Drains on the first SIGTERM or SIGINT: running requests finish, new ones get 503. Exits on the second one.

    `on_late`: called in a thread if the server has not ended five seconds after its shutdown timeout.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: "Lifecycle", pool: "ConnectionPool") -> None:
        super().__init__(config)
        self.lifecycle, self.pool = lifecycle, pool
        self.lifecycle.on_failure = self._stop_after_failure
        self.failed = False
        self.on_late: Callable[[], None] | None = None
        self._deadline = 0.0
        self._checked_at = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)  # uvicorn has reduced it to the number that asyncio accepts at a time

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Does not call uvicorn's method: it closes the socket at once, so that new clients get no answer.
        if self.lifecycle.draining:
            self.should_exit = self.force_exit = True
        timeout = self.lifecycle.settings.shutdown_timeout
        self._deadline = time.monotonic() + timeout
        if self.on_late is not None and not self.lifecycle.draining:
            timer = threading.Timer(timeout + _CLOSE_TIMEOUT, self.on_late)
            timer.daemon = True
            timer.start()
        self.lifecycle.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.lifecycle.draining and not self.should_exit:
            if not self.lifecycle.running:
                self.should_exit = True
            elif time.monotonic() > self._deadline:
                logger.warning("shutdown_timeout is over: cancelling %d running requests", self.lifecycle.running)
                await self.lifecycle.abort()
                self.pool.refuse_bodies()
                self.should_exit = True
        if counter % _CHECK_TICKS == 0:
            self._check_connections()
        if counter % _LOG_TICKS == 0:
            self.pool.log_counts()
        return await super().on_tick(counter)

    def _check_connections(self) -> None:
        now = asyncio.get_running_loop().time()
        # Time in which the event loop was busy is not the clients'.
        self.pool.check(now, min(now - self._checked_at, 2.0))
        self._checked_at = now

    def _stop_after_failure(self, _: str) -> None:
        self.failed = self.should_exit = True


def run_server(settings: Settings) -> int:
    """Serves until the process is told to stop, and returns its exit code. Raises ListenError.

    If the server cannot be closed in time, the process ends here: jobs and runs go on after the next start.
    """
    listener = listen(settings.host, settings.port)
    # Imported only now: that takes a second, in which clients can connect already and wait.
    from server.app import create_app
    from server.connections import ConnectionLimits
    from server.logs import configure_logging

    configure_logging(settings.log_format, settings.log_level)
    limits = ConnectionLimits(connections=limit_connections(settings.max_connections))
    server = create_server(create_app(settings), limits)
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    _warn_about_settings(settings, host)
    server.on_late = _end_late_process
    server.run(sockets=[listener])
    return 1 if server.failed else 0


def _warn_about_settings(settings: Settings, host: str) -> None:
    """Logs what is probably not meant. `host`: the address that the server listens on."""
    if not settings.api_keys and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        logger.warning(
            "everyone who reaches %s can use this server: it has no API keys; create one with `florist key` and set %s",
            host,
            get_variable_name("api_keys"),
        )
    if unknown := find_unknown_variables(os.environ):
        logger.warning("there are no such settings: %s; `florist serve --help` lists them", ", ".join(unknown))
    for source in settings.jobs_sources:
        if not is_url(source) and not Path(source).exists():
            logger.warning("jobs may read images from %s, but there is no such folder", source)


def end_process(code: int) -> NoReturn:
    """Ends the process without waiting for threads, and without freeing the memory of torch, which takes seconds on a
    busy machine. Everything must be closed."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def create_server(app: "FastAPI", limits: "ConnectionLimits") -> ServerProcess:
    """Returns a server of the app."""
    from server.connections import ConnectionPool, HttpProtocol

    pool = ConnectionPool(limits)
    config = uvicorn.Config(
        app,
        http=partial(HttpProtocol, pool=pool),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_ACCEPTS,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=_SEND_TIMEOUT,
    )
    return ServerProcess(config, app.state.lifecycle, pool)


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens on the address. Raises ListenError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        options = f"{get_option_name('host')} and {get_option_name('port')}"
        raise ListenError(f"cannot listen on {host} port {port}: {reason}; choose another with {options}") from error
    # Opened again by its descriptor, so that `proto` is TCP and not 0. Only then asyncio sets TCP_NODELAY on
    # connections. Without it the end of each response waits for the client's delayed acknowledgment: 40 ms.
    return socket.socket(fileno=listener.detach())


def limit_connections(maximum: int) -> int:
    """Returns how many connections may be open, as the process may not have enough descriptors for `maximum`.

    Raises the limit of descriptors as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < files:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
        except (OSError, ValueError):  # a container may forbid it
            files = soft
    # A connection may need a second descriptor, for an upload or an export.
    possible = max((files - _OWN_FILES) // 2, 1)
    if possible < maximum:
        setting = get_variable_name("max_connections")
        logger.warning("%d connections at most, not %s (%d): see `ulimit -n`", possible, setting, maximum)
    return min(possible, maximum)


def _end_late_process() -> None:
    logger.error(
        "the server could not be closed within %g s after shutdown_timeout: ending the process", _CLOSE_TIMEOUT
    )
    end_process(0)


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, OSError) and "accept" in context.get("message", ""):
        # asyncio tries again after a second. The log counts what is repeated.
        logger.error("cannot accept connections: %s", error.strerror)
    else:
        loop.default_exception_handler(context)
