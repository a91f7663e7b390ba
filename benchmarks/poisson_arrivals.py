"""Latency under Poisson arrivals, at 30 to 95 % of the engine's capacity.

`python -m benchmarks.poisson_arrivals`. First the capacity: requests per second with all of them submitted at once.
Then Poisson arrivals at fractions of it. The time of a request runs from its *scheduled* arrival, so that a late
submission counts against the engine. Every image is new. Last: interactive requests during a batch load that keeps the
engine busy, with their latency and the throughput that is left for the batch.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import run_in_thread, time_call
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import make_new_image_requests, run_concurrently
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request

LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
WORKLOAD = "seedling, fp32, greedy, one new image per request"


def measure_latencies(engine: Engine, requests: Sequence[Request], rate: float, seed: int) -> list[float]:
    """Returns seconds from scheduled arrival to answer, at `rate` arrivals per second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, len(requests))
    start = time.perf_counter() + 0.05
    scheduled = start + np.cumsum(gaps)
    finished = [0.0] * len(requests)
    threads = []

    def wait(position: int, handle: Handle) -> None:
        handle.wait()
        finished[position] = time.perf_counter()

    for position, (at, request) in enumerate(zip(scheduled, requests, strict=True)):
        time.sleep(max(0.0, at - time.perf_counter()))
        threads.append(threading.Thread(target=wait, args=(position, engine.submit(request))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return [end - at for end, at in zip(finished, scheduled, strict=True)]


def compute_percentiles(workload: str, system: str, seconds: Sequence[float]) -> list[Measurement]:
    """Returns p50 and p99 in milliseconds."""
    return [Measurement(workload, f"{system}, p{p}", float(np.percentile(seconds, p)) * 1e3, "ms") for p in (50, 99)]


def measure_during_batch(
    engine: Engine, requests: Sequence[Request], rate: float, capacity: float
) -> list[Measurement]:
    """Measures interactive requests at `rate` per second during a batch load that keeps its queue full."""
    batch_requests = make_new_image_requests(200, first=20_000)
    completed, stop = 0, threading.Event()

    def run_batch() -> None:
        nonlocal completed
        pending: list[Handle] = []
        number = 0
        while not stop.is_set():
            while len(pending) < 2 * engine.config.max_batch:
                request = batch_requests[number % len(batch_requests)]
                pending.append(engine.submit(replace(request, interactive=False, client="job")))
                number += 1
            pending.pop(0).wait()
            completed += 1
        for handle in pending:
            handle.cancel()

    thread = threading.Thread(target=run_batch)
    thread.start()
    start = time.perf_counter()
    try:
        latencies = measure_latencies(engine, requests, rate, seed=7)
    finally:
        seconds = time.perf_counter() - start
        stop.set()
        thread.join()
    workload = f"{WORKLOAD}: interactive at {rate / capacity:.0%} of capacity during a batch load"
    throughput = completed / seconds
    note = f"{throughput / capacity:.0%} of capacity"
    batch = Measurement(workload, "batch load", throughput, "requests/s", note=note)
    return [*compute_percentiles(workload, "interactive", latencies), batch]


def main(
    count: Annotated[int, typer.Option(min=20, help="Requests at each load.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints p50 and p99 at each load."""
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    measurements: list[Measurement] = []
    with Engine(checkpoint, EngineConfig(max_waiting=4096, feature_cache_bytes=0)) as engine:
        run_concurrently(engine, make_new_image_requests(32, first=9000))
        requests = make_new_image_requests(count)
        seconds, _ = time_call(lambda: run_concurrently(engine, requests))
        capacity = count / seconds
        measurements.append(Measurement(f"{WORKLOAD}: all at once", "capacity", capacity, "requests/s"))
        for i, load in enumerate(LOADS):
            latencies = measure_latencies(engine, requests, load * capacity, seed=i)
            system = f"{load:.0%} of capacity"
            measurements += compute_percentiles(f"{WORKLOAD}: Poisson arrivals", system, latencies)
        measurements += measure_during_batch(engine, requests, 0.3 * capacity, capacity)
    report_measurements(f"Latency from scheduled arrival, {count} requests at each load", measurements, out)


if __name__ == "__main__":
    typer.run(main)
