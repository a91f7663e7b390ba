"""The seedling over HTTP at saturation: `florist serve` in its own process, against the bare engine and transformers.

`python -m benchmarks.http_saturation`. Clients in another process run closed loops: each sends its next request when it
has the answer to its last. On every system a request starts as the bytes of a PNG, and every image is new, so nothing
is cached between requests. First workload: one prompt per image; transformers answers one at a time, and behind
LitServe (`pip install litserve`), which batches waiting requests. Second workload: all tasks of an image in one
request, as in labeling; transformers answers one at a time, and sharing image features as the server does. Client,
server and model share the cores of this machine: on two cores, the client's work reduces the server's throughput.
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

from benchmarks.machine import run_in_thread, time_call
from benchmarks.results import Measurement, report_measurements
from benchmarks.transformers_baseline import TransformersBaseline
from benchmarks.workloads import get_image, make_all_task_requests, make_new_image_requests, run_concurrently
from prompts.tasks import TASKS
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.devices import choose_worker_count
from server.engine.engine import Engine
from server.engine.request import Request

ROOT = Path(__file__).parents[1]
BOUNDARY = "florist-benchmark"
TIMEOUT = 120.0  # seconds for a server to be ready
ONE_BY_ONE = "transformers, one at a time"
BARE_ENGINE = "florist's engine alone"


@dataclass(frozen=True, slots=True)
class ImagePrompts:
    """An image file, and the prompts about it in one HTTP request."""

    file: bytes
    prompts: Sequence[Request]

    def decode(self) -> list[Request]:
        """Returns the prompts with the image decoded again."""
        image = Image.open(io.BytesIO(self.file)).convert("RGB")
        return [replace(prompt, image=image) for prompt in self.prompts]


def group_by_image(requests: Sequence[Request]) -> list[ImagePrompts]:
    """Groups consecutive requests with the same image."""
    groups: list[ImagePrompts] = []
    for _, own in itertools.groupby(requests, key=lambda request: id(request.image)):
        prompts, file = list(own), io.BytesIO()
        get_image(prompts[0]).save(file, "PNG", compress_level=1)
        groups.append(ImagePrompts(file.getvalue(), prompts))
    return groups


def encode_form(group: ImagePrompts) -> bytes:
    """Returns the body of POST /v1/prompt."""
    prompts = [
        {"task": r.task.token}
        | ({"text": r.text} if r.text else {})
        | ({"region": list(map(float, r.region))} if r.region else {})
        for r in group.prompts
    ]
    first = group.prompts[0]
    fields = {"max_new_tokens": str(first.max_new_tokens), "num_beams": str(first.num_beams)}
    if len(prompts) > 1:
        fields["prompts"] = json.dumps(prompts)
    else:
        fields |= {k: v if isinstance(v, str) else ",".join(map(str, v)) for k, v in prompts[0].items()}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
    parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + group.file + f"\r\n--{BOUNDARY}--\r\n".encode())
    return b"".join(parts)


def run_closed_loop(bodies: Sequence[bytes], clients: int, port: int, path: str) -> float:
    """Returns the seconds until all bodies are answered, with `clients` requests in progress at any time.

    Raises RuntimeError for any status other than 200.
    """
    remaining, failures = iter(bodies), list[str]()
    lock = threading.Lock()

    def run_client() -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        while not failures:
            with lock:
                body = next(remaining, None)
            if body is None:
                return
            connection.request("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                failures.append(f"{response.status}: {content[:200]!r}")

    start = time.perf_counter()
    _run_threads(run_client, clients)
    if failures:
        raise RuntimeError(f"a request failed: {failures[0]}")
    return time.perf_counter() - start


def run_closed_loop_in_process(bodies: Sequence[bytes], clients: int, port: int, path: str) -> float:
    """Runs `run_closed_loop` in another process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run_closed_loop, (bodies, clients, port, path))


def _run_threads(target: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=target) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def start_server(command: Sequence[str], ready_path: str) -> Iterator[int]:
    """Starts a server as a user does; yields its port once `ready_path` answers. The port is appended to `command`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLORIST_")}
    process = subprocess.Popen(
        [*command, str(port)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + TIMEOUT
        while not _is_ready(port, ready_path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} {port} did not start; run it by hand to see why")
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(TIMEOUT)


def _is_ready(port: int, path: str) -> bool:
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False


def run_bare_engine(engine: Engine, work: Sequence[ImagePrompts], clients: int) -> None:
    """Runs the engine in this process, with `clients` threads."""
    remaining, lock = iter(work), threading.Lock()

    def run_client() -> None:
        while True:
            with lock:
                group = next(remaining, None)
            if group is None:
                return
            run_concurrently(engine, group.decode())

    _run_threads(run_client, clients)


@dataclass
class SaturationBenchmark:
    """Measures rates in prompts per second, with one model and a number of clients."""

    checkpoint: Checkpoint
    baseline: TransformersBaseline
    clients: int

    def measure_florist(self, work: Sequence[ImagePrompts], warmup: Sequence[ImagePrompts]) -> dict[str, float]:
        """Measures the engine in this process, and `florist serve` with its default number of workers."""
        prompts = sum(len(group.prompts) for group in work)
        workers = choose_worker_count(self.checkpoint.model)
        with Engine(self.checkpoint, replicas=[self.checkpoint] * (workers - 1)) as engine:
            run_bare_engine(engine, warmup, self.clients)
            seconds, _ = time_call(lambda: run_bare_engine(engine, work, self.clients))
        device = ",".join(["cpu"] * workers)
        serve = [sys.executable, "-m", "server.cli.main", "serve", "--device", device, "--log-level", "error", "--port"]
        with start_server(serve, "/readyz") as port:
            http_seconds = self._time_requests(work, warmup, port, "/v1/prompt")
        return {BARE_ENGINE: prompts / seconds, "florist serve": prompts / http_seconds}

    def measure_litserve(self, work: Sequence[ImagePrompts], warmup: Sequence[ImagePrompts]) -> dict[str, float]:
        """Measures LitServe with one worker and with florist's number of workers; nothing if it is not installed."""
        if not find_spec("litserve"):
            return {}
        rates = {}
        for workers in sorted({1, choose_worker_count(self.checkpoint.model)}):
            command = [sys.executable, "-m", "benchmarks.litserve_server", str(workers)]
            with start_server(command, "/health") as port:
                seconds = self._time_requests(work, warmup, port, "/predict")
            name = f"transformers behind LitServe, batches of 16, {workers} worker{'s' * (workers > 1)}"
            rates[name] = len(work) / seconds
        return rates

    def measure_one_by_one(self, work: Sequence[ImagePrompts]) -> dict[str, float]:
        """Measures transformers with one prompt at a time."""
        prompts = sum(len(group.prompts) for group in work)
        seconds, _ = time_call(lambda: [self.baseline.generate_one_by_one(group.decode()) for group in work])
        return {ONE_BY_ONE: prompts / seconds}

    def measure_sharing(self, work: Sequence[ImagePrompts]) -> dict[str, float]:
        """Measures transformers with shared image features, one prompt at a time and in one batch per image."""
        prompts = sum(len(group.prompts) for group in work)
        baseline = self.baseline
        single, _ = time_call(lambda: [baseline.generate_sharing_features(group.decode()) for group in work])
        batch, _ = time_call(
            lambda: [
                baseline.generate_batches(group.decode(), len(group.prompts), share_features=True) for group in work
            ]
        )
        return {
            f"{ONE_BY_ONE}, sharing features": prompts / single,
            "transformers, one batch per image": prompts / batch,
        }

    def _time_requests(
        self, work: Sequence[ImagePrompts], warmup: Sequence[ImagePrompts], port: int, path: str
    ) -> float:
        run_closed_loop_in_process([encode_form(group) for group in warmup], self.clients, port, path)
        return run_closed_loop_in_process([encode_form(group) for group in work], self.clients, port, path)


def to_measurements(workload: str, rates: dict[str, float]) -> list[Measurement]:
    """Returns prompts per second, with transformers one at a time as the baseline."""
    notes = {"florist serve": f"{rates['florist serve'] / rates[BARE_ENGINE]:.0%} of the engine alone"}
    return [
        Measurement(workload, name, rate, "prompts/s", rate / rates[ONE_BY_ONE], None, notes.get(name, ""))
        for name, rate in rates.items()
    ]


def main(
    count: Annotated[int, typer.Option(min=16, help="HTTP requests with one prompt.")] = 400,
    images: Annotated[int, typer.Option(min=8, help="HTTP requests with all tasks.")] = 32,
    alone: Annotated[int, typer.Option(min=1, help="Prompts that transformers answers one at a time.")] = 60,
    clients: Annotated[int, typer.Option(min=1, help="Requests in progress.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints prompts per second of all systems."""
    single = group_by_image(make_new_image_requests(count))
    warmup = group_by_image(make_new_image_requests(32, first=5000))
    all_tasks = group_by_image(make_all_task_requests(images))
    all_tasks_warmup = group_by_image(make_all_task_requests(4, first=5000))
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    baseline = TransformersBaseline(checkpoint, torch.float32)
    run_in_thread(lambda: baseline.select_attention([get_image(warmup[0].decode()[0])]))
    run_in_thread(lambda: baseline.generate_one_by_one([p for group in warmup[:8] for p in group.decode()]))
    benchmark = SaturationBenchmark(checkpoint, baseline, clients)
    rates = benchmark.measure_one_by_one(single[:alone])
    rates |= benchmark.measure_litserve(single[: count // 4], warmup)
    rates |= benchmark.measure_florist(single, warmup)
    measurements = to_measurements(f"seedling, fp32, greedy, one new image per prompt, {clients} clients", rates)
    benchmark = SaturationBenchmark(checkpoint, baseline, clients=4)
    part = all_tasks[: max(1, alone // len(TASKS))]
    rates = benchmark.measure_one_by_one(part) | benchmark.measure_sharing(part)
    rates |= benchmark.measure_florist(all_tasks, all_tasks_warmup)
    workload = "seedling, fp32, greedy, all tasks of a new image in one request, 4 clients"
    measurements += to_measurements(workload, rates)
    report_measurements("The seedling over HTTP at saturation; all share the cores", measurements, out)


if __name__ == "__main__":
    typer.run(main)
