"""The seedling over HTTP at saturation: `florist serve` in a process of its own, against the bare engine.

`python -m benchmarks.http`. Clients in a process of their own ask in closed loops: each sends its next request when the
answer to its last is there. A request begins as the bytes of a PNG on every side, and every picture is new, so that no
cache helps. transformers answers one at a time, and behind LitServe (`pip install litserve`), which batches what waits.
Client, server and model share this machine's cores: on two of them the client's work is the server's loss.
"""

import io
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from benchmarks.baselines import Transformers
from benchmarks.machine import apart, timed
from benchmarks.results import Row, show
from benchmarks.workloads import new_pictures
from server.engine import checkpoint as checkpoints
from server.engine.engine import Engine
from server.engine.request import Request

ROOT = Path(__file__).parents[1]
BOUNDARY = "florist-benchmark"
PATIENCE = 120.0  # seconds for a server to be ready
ENGINE = "florist's engine alone"
Asked = tuple[bytes, Request]


def asked(count: int, first: int) -> list[Asked]:
    """A new picture each, as PNG and as a request, the tasks in turn."""
    found: list[Asked] = []
    for request in new_pictures(count, first):
        file = io.BytesIO()
        request.image.save(file, "PNG", compress_level=1)
        found.append((file.getvalue(), request))
    return found


def decoded(one: Asked) -> Request:
    """The request with its picture read anew."""
    file, r = one
    image = Image.open(io.BytesIO(file)).convert("RGB")
    return Request(image, r.task, r.text, r.region, max_new_tokens=r.max_new_tokens, num_beams=r.num_beams)


def form(one: Asked) -> bytes:
    """The body of POST /v1/prompt."""
    file, r = one
    fields = {"task": r.task.token, "max_new_tokens": str(r.max_new_tokens), "num_beams": str(r.num_beams)}
    fields |= {"text": r.text} if r.text else {}
    fields |= {"region": ",".join(map(str, r.region))} if r.region else {}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + file + f"\r\n--{BOUNDARY}--\r\n".encode())
    return b"".join(parts)


def closed_loop(work: Sequence[bytes], clients: int, port: int, path: str) -> float:
    """Seconds until all bodies are answered, `clients` of them under way at any time. Raises for any other than 200."""
    bodies, failures = iter(work), list[str]()
    lock = threading.Lock()

    def client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while not failures:
            with lock:
                body = next(bodies, None)
            if body is None:
                return
            connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                failures.append(f"{response.status}: {said[:200]!r}")

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise RuntimeError(f"a request was refused: {failures[0]}")
    return time.perf_counter() - start


def from_elsewhere(work: Sequence[bytes], clients: int, port: int, path: str) -> float:
    """The same from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(closed_loop, (work, clients, port, path))


@contextmanager
def process(command: Callable[[int], list[str]], ready: str) -> Iterator[int]:
    """A server as a user runs it; its port once `ready` answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLORIST_")}
    running = subprocess.Popen(
        command(port), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        ends = time.monotonic() + PATIENCE
        while not _answers(port, ready):
            if running.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"{' '.join(command(port))} did not come up; run it by hand to see why")
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(PATIENCE)


def _answers(port: int, path: str) -> bool:
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False


def bare(engine: Engine, work: Sequence[Asked], clients: int) -> None:
    """The engine in this process, asked by as many threads."""
    rest, lock = iter(work), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                one = next(rest, None)
            if one is None:
                return
            engine.submit(decoded(one)).wait()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(
    count: Annotated[int, typer.Option(min=16, help="Requests.")] = 400,
    alone: Annotated[int, typer.Option(min=1, help="Of them, those that transformers answers one at a time.")] = 60,
    clients: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints requests a second of all sides."""
    work, warm = asked(count, 0), asked(32, 5000)
    bodies, warming = [form(one) for one in work], [form(one) for one in warm]
    checkpoint = apart(lambda: checkpoints.load(checkpoints.SEEDLING))
    theirs = Transformers(checkpoint, torch.float32)
    apart(lambda: theirs.tune([decoded(one).image for one in warm[:1]]))
    apart(lambda: theirs.one_at_a_time([decoded(one) for one in warm[:8]]))
    took, _ = timed(lambda: [theirs.answer([decoded(one)]) for one in work[:alone]])
    rates, notes = {"transformers, one at a time": alone / took}, {}
    if find_spec("litserve"):
        command = [sys.executable, "-m", "benchmarks.litserving"]
        with process(lambda port: [*command, str(port)], "/health") as port:
            part = bodies[: count // 4]
            from_elsewhere(warming, clients, port, "/predict")
            name = "transformers behind LitServe, batches of 16"
            rates[name] = len(part) / from_elsewhere(part, clients, port, "/predict")
    with Engine(checkpoint, max_batch=16) as engine:
        bare(engine, warm, clients)
        took, _ = timed(lambda: bare(engine, work, clients))
        rates[ENGINE] = count / took
    serve = [sys.executable, "-m", "server.cli", "serve", "--device", "cpu", "--log-level", "error", "--port"]
    with process(lambda port: [*serve, str(port)], "/readyz") as port:
        from_elsewhere(warming, clients, port, "/v1/prompt")
        rates["florist serve"] = count / from_elsewhere(bodies, clients, port, "/v1/prompt")
    notes["florist serve"] = f"{rates['florist serve'] / rates[ENGINE]:.0%} of the engine alone"
    first = rates["transformers, one at a time"]
    title = f"seedling, fp32, greedy, a new picture each, {clients} clients"
    rows = [
        Row(title, name, rate, "requests/s", rate / first, None, notes.get(name, "")) for name, rate in rates.items()
    ]
    show("The seedling over HTTP at saturation; client, server and model share the cores", rows, out)


if __name__ == "__main__":
    typer.run(main)
