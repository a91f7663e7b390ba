"""Requests that arrive when they like: the seedling's latency at 30 to 95 % of what the engine can do.

`python -m benchmarks.poisson_arrivals`. First the capacity: requests a second with all of them submitted at once. Then Poisson
arrivals at shares of it; a request's time runs from when it was *scheduled* to arrive, so that a late submission counts
against the engine. Every picture is new. Last, people beside a job that never lets the engine rest: what they wait, and
what is left for the job.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import apart, timed
from benchmarks.results import Row, show
from benchmarks.workloads import new_pictures, together
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request

SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
TYPE = "seedling, fp32, greedy, a new picture each"


def latencies(engine: Engine, requests: Sequence[Request], rate: float, seed: int) -> list[float]:
    """Seconds from the scheduled arrival to the answer, at `rate` a second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, len(requests))
    start = time.perf_counter() + 0.05
    due = start + np.cumsum(gaps)
    ended = [0.0] * len(requests)
    threads = []

    def wait(place: int, handle: Handle) -> None:
        handle.wait()
        ended[place] = time.perf_counter()

    for place, (at, request) in enumerate(zip(due, requests, strict=True)):
        time.sleep(max(0.0, at - time.perf_counter()))
        threads.append(threading.Thread(target=wait, args=(place, engine.submit(request))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return [end - at for end, at in zip(ended, due, strict=True)]


def percentiles(work: str, side: str, values: Sequence[float], note: str = "") -> list[Row]:
    """p50 and p99 in milliseconds."""
    return [
        Row(work, f"{side}, p{p}", float(np.percentile(values, p)) * 1e3, "ms", note=note if p == 50 else "")
        for p in (50, 99)
    ]


def beside_a_job(engine: Engine, requests: Sequence[Request], rate: float, capacity: float) -> list[Row]:
    """People at `rate` a second while a job keeps its share of the waiting room full."""
    jobs = new_pictures(200, first=20_000)
    finished, over = 0, threading.Event()

    def job() -> None:
        nonlocal finished
        under_way: list[Handle] = []
        turn = 0
        while not over.is_set():
            while len(under_way) < 2 * engine.config.max_batch:
                under_way.append(engine.submit(replace(jobs[turn % len(jobs)], interactive=False, client="job")))
                turn += 1
            under_way.pop(0).wait()
            finished += 1
        for handle in under_way:
            handle.cancel()

    thread = threading.Thread(target=job)
    thread.start()
    began = time.perf_counter()
    try:
        people = latencies(engine, requests, rate, seed=7)
    finally:
        took = time.perf_counter() - began
        over.set()
        thread.join()
    work = f"{TYPE}: people at {rate / capacity:.0%} of capacity beside a job without end"
    left = Row(work, "job", finished / took, "requests/s", note=f"{finished / took / capacity:.0%} of capacity")
    return [*percentiles(work, "people", people), left]


def main(
    count: Annotated[int, typer.Option(min=20, help="Requests at each rate.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints p50 and p99 at each rate."""
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    rows: list[Row] = []
    with Engine(checkpoint, EngineConfig(max_waiting=4096, feature_cache_bytes=0)) as engine:
        together(engine, new_pictures(32, first=9000))
        requests = new_pictures(count)
        took, _ = timed(lambda: together(engine, requests))
        capacity = count / took
        rows.append(Row(f"{TYPE}: all at once", "capacity", capacity, "requests/s"))
        for i, share in enumerate(SHARES):
            values = latencies(engine, requests, share * capacity, seed=i)
            rows += percentiles(f"{TYPE}: Poisson arrivals", f"{share:.0%} of capacity", values)
        rows += beside_a_job(engine, requests, 0.3 * capacity, capacity)
    show(f"Latency from the scheduled arrival, {count} requests at each rate", rows, out)


if __name__ == "__main__":
    typer.run(main)
