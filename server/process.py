"""The server process: its socket, its signals and its exit code."""

import logging
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from server.settings import Settings, get_option_name

if TYPE_CHECKING:
    from server.lifecycle import Lifecycle

_SEND_TIMEOUT = 3  # seconds to send the last responses after all requests have ended
logger = logging.getLogger(__name__)


class ListenError(OSError):
    """The server cannot listen on the address."""


class ServerProcess(uvicorn.Server):
    """Drains on the first SIGTERM or SIGINT: running requests finish, new ones get 503. Exits on the second one."""

    def __init__(self, config: uvicorn.Config, lifecycle: "Lifecycle") -> None:
        super().__init__(config)
        self.lifecycle = lifecycle
        self.lifecycle.on_failure = self._stop_after_failure
        self.failed = False
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Does not call uvicorn's method: it closes the socket at once, so that new clients get no answer.
        if self.lifecycle.draining:
            self.should_exit = self.force_exit = True
        self._deadline = time.monotonic() + self.lifecycle.settings.shutdown_timeout
        self.lifecycle.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.lifecycle.draining and not self.should_exit:
            if not self.lifecycle.running:
                self.should_exit = True
            elif time.monotonic() > self._deadline:
                logger.warning("shutdown_timeout is over: cancelling %d running requests", self.lifecycle.running)
                await self.lifecycle.abort()
                self.should_exit = True
        return await super().on_tick(counter)

    def _stop_after_failure(self, _: str) -> None:
        self.failed = self.should_exit = True


def run_server(settings: Settings) -> int:
    """Serves until the process is told to stop, and returns its exit code. Raises ListenError."""
    listener = _listen(settings.host, settings.port)
    # Imported only now: that takes a second, in which clients can connect already and wait.
    from server.app import create_app
    from server.logs import configure_logging

    configure_logging(settings.log_format, settings.log_level)
    app = create_app(settings)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_SEND_TIMEOUT
    )
    server = ServerProcess(config, app.state.lifecycle)
    host, port = listener.getsockname()[:2]
    logger.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run(sockets=[listener])
    return 1 if server.failed else 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        options = f"{get_option_name('host')} and {get_option_name('port')}"
        raise ListenError(f"cannot listen on {host} port {port}: {reason}; choose another with {options}") from error
