"""The seedling over HTTP at saturation: `florist serve` in a process of its own, against the bare engine.

`python -m benchmarks.http_saturation`. Clients in a process of their own ask in closed loops: each sends its next request when the
answer to its last is there. A request begins as the bytes of a PNG on every side, and every picture is new, so that
nothing is kept from one request to the next. First one question a picture: transformers answers one at a time, and
behind LitServe (`pip install litserve`), which batches what waits. Then all tasks of a picture in one request, as
labeling asks: transformers one at a time, and sharing what it sees of the picture as the server does.
Client, server and model share this machine's cores: on two of them the client's work is the server's loss.
"""

import io
import itertools
import json
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
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from benchmarks.machine import apart, timed
from benchmarks.results import Row, show
from benchmarks.transformers_baseline import Transformers
from benchmarks.workloads import every_task, new_pictures, together
from prompts.tasks import TASKS
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.devices import choose_worker_count
from server.engine.engine import Engine
from server.engine.request import Request

ROOT = Path(__file__).parents[1]
BOUNDARY = "florist-benchmark"
PATIENCE = 120.0  # seconds for a server to be ready
ALONE = "transformers, one at a time"
ENGINE = "florist's engine alone"


@dataclass(frozen=True, slots=True)
class Asked:
    """A picture's file, and what is asked about it in one request."""

    file: bytes
    questions: Sequence[Request]

    def decoded(self) -> list[Request]:
        """The questions with the picture read anew."""
        image = Image.open(io.BytesIO(self.file)).convert("RGB")
        return [replace(question, image=image) for question in self.questions]


def asked(requests: Sequence[Request]) -> list[Asked]:
    """Neighbours that share a picture are asked together."""
    found: list[Asked] = []
    for _, own in itertools.groupby(requests, key=lambda request: id(request.image)):
        questions, file = list(own), io.BytesIO()
        questions[0].image.save(file, "PNG", compress_level=1)
        found.append(Asked(file.getvalue(), questions))
    return found


def form(one: Asked) -> bytes:
    """The body of POST /v1/prompt."""
    prompts = [
        {"task": r.task.token}
        | ({"text": r.text} if r.text else {})
        | ({"region": list(map(float, r.region))} if r.region else {})
        for r in one.questions
    ]
    fields = {"max_new_tokens": str(one.questions[0].max_new_tokens), "num_beams": str(one.questions[0].num_beams)}
    if len(prompts) > 1:
        fields["prompts"] = json.dumps(prompts)
    else:
        fields |= {k: v if isinstance(v, str) else ",".join(map(str, v)) for k, v in prompts[0].items()}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + one.file + f"\r\n--{BOUNDARY}--\r\n".encode())
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
            together(engine, one.decoded())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@dataclass
class Saturation:
    """Both workloads on one model; rates are prompts a second."""

    checkpoint: Checkpoint
    theirs: Transformers
    clients: int

    def served(self, work: Sequence[Asked], warm: Sequence[Asked]) -> dict[str, float]:
        """By the engine in this process, and by `florist serve`, with the workers that it takes by itself."""
        prompts = sum(len(one.questions) for one in work)
        workers = choose_worker_count(self.checkpoint.model)
        with Engine(self.checkpoint, replicas=[self.checkpoint] * (workers - 1)) as engine:
            bare(engine, warm, self.clients)
            took, _ = timed(lambda: bare(engine, work, self.clients))
        device = ",".join(["cpu"] * workers)
        serve = [sys.executable, "-m", "server.cli.main", "serve", "--device", device, "--log-level", "error", "--port"]
        with process(lambda port: [*serve, str(port)], "/readyz") as port:
            over = self._clocked(work, warm, port, "/v1/prompt")
        return {ENGINE: prompts / took, "florist serve": prompts / over}

    def behind_litserve(self, work: Sequence[Asked], warm: Sequence[Asked]) -> dict[str, float]:
        """With one worker and with as many as we take. Empty where LitServe is not installed."""
        if not find_spec("litserve"):
            return {}
        rates = {}
        for workers in sorted({1, choose_worker_count(self.checkpoint.model)}):
            command = [sys.executable, "-m", "benchmarks.litserve_server", str(workers)]
            with process(lambda port, command=command: [*command, str(port)], "/health") as port:
                took = self._clocked(work, warm, port, "/predict")
            name = f"transformers behind LitServe, batches of 16, {workers} worker{'s' * (workers > 1)}"
            rates[name] = len(work) / took
        return rates

    def alone(self, work: Sequence[Asked]) -> dict[str, float]:
        """One prompt at a time."""
        prompts = sum(len(one.questions) for one in work)
        took, _ = timed(lambda: [self.theirs.one_at_a_time(one.decoded()) for one in work])
        return {ALONE: prompts / took}

    def sharing(self, work: Sequence[Asked]) -> dict[str, float]:
        """The prompts of a picture, one at a time and in one batch, over one look at it."""
        prompts = sum(len(one.questions) for one in work)
        each, _ = timed(lambda: [self.theirs.one_at_a_time_sharing(one.decoded()) for one in work])
        batch, _ = timed(lambda: [self.theirs.batched(one.decoded(), len(one.questions), share=True) for one in work])
        return {f"{ALONE}, sharing the picture": prompts / each, "transformers, a batch a picture": prompts / batch}

    def _clocked(self, work: Sequence[Asked], warm: Sequence[Asked], port: int, path: str) -> float:
        from_elsewhere([form(one) for one in warm], self.clients, port, path)
        return from_elsewhere([form(one) for one in work], self.clients, port, path)


def rows(work: str, rates: dict[str, float]) -> list[Row]:
    """Prompts a second, the first side as the baseline."""
    own = {"florist serve": f"{rates['florist serve'] / rates[ENGINE]:.0%} of the engine alone"}
    return [Row(work, name, r, "prompts/s", r / rates[ALONE], None, own.get(name, "")) for name, r in rates.items()]


def main(
    count: Annotated[int, typer.Option(min=16, help="Requests of one prompt.")] = 400,
    pictures: Annotated[int, typer.Option(min=8, help="Requests of all tasks.")] = 32,
    alone: Annotated[int, typer.Option(min=1, help="Prompts of either that transformers answers one at a time.")] = 60,
    clients: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints prompts a second of all sides."""
    single, warm = asked(new_pictures(count)), asked(new_pictures(32, first=5000))
    whole, warm_whole = asked(every_task(pictures)), asked(every_task(4, first=5000))
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    theirs = Transformers(checkpoint, torch.float32)
    apart(lambda: theirs.tune([one.decoded()[0].image for one in warm[:1]]))
    apart(lambda: theirs.one_at_a_time([question for one in warm[:8] for question in one.decoded()]))
    one = Saturation(checkpoint, theirs, clients)
    rates = one.alone(single[:alone]) | one.behind_litserve(single[: count // 4], warm) | one.served(single, warm)
    found = rows(f"seedling, fp32, greedy, a new picture each, {clients} clients", rates)
    many = Saturation(checkpoint, theirs, clients=4)
    part = whole[: max(1, alone // len(TASKS))]
    rates = many.alone(part) | many.sharing(part) | many.served(whole, warm_whole)
    found += rows("seedling, fp32, greedy, all tasks of a new picture in one request, 4 clients", rates)
    show("The seedling over HTTP at saturation; client, server and model share the cores", found, out)


if __name__ == "__main__":
    typer.run(main)
