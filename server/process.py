"""The server as a process: its socket, its signals, its exit code."""

import logging
import socket
import time
from types import FrameType

import uvicorn

from server import logs
from server.app import create_app
from server.settings import Settings, option

_LAST_WORDS = 3  # seconds for answers to reach their clients once all work has ended
logger = logging.getLogger(__name__)


class CannotListen(OSError):  # noqa: N818
    """The address cannot be listened on."""


class Server(uvicorn.Server):
    """A first SIGTERM or SIGINT drains: what runs is finished, what comes is refused with 503. A second one ends it."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serving = config.app.state.serving  # type: ignore[union-attr]
        self.serving.on_failure = self._fail
        self.failed = False
        self._deadline = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn's own closes the socket at once, so that who comes now is cut off instead of told why.
        if self.serving.draining:
            self.should_exit = self.force_exit = True
        self._deadline = time.monotonic() + self.serving.settings.shutdown_timeout
        self.serving.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.serving.draining and not self.should_exit:
            if not self.serving.running:
                self.should_exit = True
            elif time.monotonic() > self._deadline:
                logger.warning("%d requests are given up: shutdown_timeout is over", self.serving.running)
                await self.serving.abandon()
                self.should_exit = True
        return await super().on_tick(counter)

    def _fail(self, _: str) -> None:
        self.failed = self.should_exit = True


def serve(settings: Settings) -> int:
    """Serves until told to stop; returns the exit code. Raises CannotListen."""
    listener = _listen(settings.host, settings.port)
    logs.configure(settings.log_format, settings.log_level)
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    server = Server(config)
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
        raise CannotListen(
            f"cannot listen on {host} port {port}: {reason}; choose another with {option('host')} and {option('port')}"
        ) from error
