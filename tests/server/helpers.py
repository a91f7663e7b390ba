"""Servers to test: an engine that the test controls, an app behind a socket, and the real process."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI

from prompts.annotations import Annotation, Box
from server.connections import ConnectionLimits
from server.engine.config import EngineConfig
from server.engine.errors import EngineClosedError, OverloadedError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request, Result
from server.process import ServerProcess, create_server, listen

ROOT = Path(__file__).parents[2]
TIMEOUT = 180.0  # seconds; the machine may be busy


class StuckEngine:
    """An engine whose requests wait until a test ends them. It accepts `room` requests at a time."""

    resizing = 1, 1, 0

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.handles: list[Handle] = []
        self.checkpoint = SimpleNamespace(name="stuck")
        self.config = EngineConfig(max_batch=1, max_waiting=room)

    def prepare_resized(self, size: tuple[int, int], pixels: np.ndarray) -> PreparedImage:
        return PreparedImage(size, pixels, b"")

    def check_capacity(self, count: int = 1, *, interactive: bool = True) -> None:
        waiting = sum(not handle.done() for handle in self.handles)
        if waiting + count > self.room:
            raise OverloadedError(waiting, 7.2)

    def submit(self, request: Request) -> Handle:
        request.task.build_prompt(request.text, request.region, request.image.size)
        self.check_capacity()
        handle = Handle(lambda: handle.set_exception(RequestCancelledError("cancelled")) and None)
        self.handles.append(handle)
        return handle

    def get_stats(self) -> None:
        return None

    def close(self, *, drain: bool = True) -> None:
        for handle in self.handles:
            handle.set_exception(EngineClosedError("shut down"))

    def finish(self, index: int, annotations: list[Annotation]) -> None:
        self.handles[index].publish(annotations)
        self.handles[index].set_result(Result(annotations, "said", [2], [0.0], "stop"))


class AnsweringEngine(StuckEngine):
    """An engine that answers every prompt at once, with one box."""

    def submit(self, request: Request) -> Handle:
        handle = super().submit(request)
        self.finish(len(self.handles) - 1, [Box(label="ball", score=0.9, box=(1, 2, 3, 4))])
        return handle


@contextmanager
def serve_app(app: FastAPI, limits: ConnectionLimits | None = None) -> Iterator[str]:
    """Serves the app on a real socket, in a thread of this process. Yields its URL."""
    with run_app(app, limits) as (_, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def run_app(app: FastAPI, limits: ConnectionLimits | None = None) -> Iterator[tuple[ServerProcess, int]]:
    """As `serve_app`. Yields the server and its port."""
    server, listener = create_server(app, limits or ConnectionLimits()), listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server, port
    finally:
        server.should_exit = True
        thread.join(TIMEOUT)


def connect(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    """Returns a client that calls the app without a socket."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://florist", timeout=TIMEOUT, **options)


class FloristProcess:
    """`florist serve` as a user runs it. `python`: that of an installed florist, which runs away from the checkout."""

    def __init__(self, log: Path, *options: str, python: Path | None = None, **environment: str) -> None:
        self.port, self.log = find_free_port(), log
        self.url = f"http://127.0.0.1:{self.port}"
        start = [str(python or sys.executable), "-m", "server.cli.main", "serve"]
        command = [*start, "--port", str(self.port), *options]
        folder = log.parent if python else ROOT
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FLORIST_")}
        with log.open("wb") as file:
            self.running = subprocess.Popen(
                command, stdout=file, stderr=file, cwd=folder, env=clean | {"OMP_NUM_THREADS": "1"} | environment
            )

    def wait_ready(self) -> None:
        wait_until(lambda: self.running.poll() is not None or self.get_status("/readyz") == 200)
        assert self.running.poll() is None, self.log.read_text()

    def get_status(self, path: str) -> int:
        """Returns the status of a response; 0 if the server does not answer."""
        try:
            return httpx.get(self.url + path, timeout=5).status_code
        except httpx.TransportError:
            return 0

    def read_cpu_seconds(self) -> float:
        """Returns the CPU time of the process so far, from Linux's /proc."""
        fields = Path(f"/proc/{self.running.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]), int(fields[12])
        return (user + system) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        self.running.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Returns the exit code."""
        return self.running.wait(TIMEOUT)

    def kill(self) -> None:
        if self.running.poll() is None:
            self.running.kill()
            self.running.wait()


def find_free_port() -> int:
    """Returns a port that is not in use."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float = TIMEOUT) -> None:
    """Waits until the condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
