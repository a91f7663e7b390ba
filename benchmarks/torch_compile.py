"""transformers with a static cache and torch.compile, on the seedling: whether it works, and how fast it is.

`python -m benchmarks.torch_compile`. The decoder's forward pass is compiled as `generate` does for a static cache. The
time until the first answers is what a server would wait at startup; the limit is two minutes.
"""

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.machine import run_in_thread, time_call
from benchmarks.results import Measurement, report_measurements
from benchmarks.transformers_baseline import TransformersBaseline
from benchmarks.workloads import get_image, make_new_image_requests, run_concurrently
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.engine.request import Request

COMPILE_TIMEOUT = 120.0  # seconds


def run_compiled(requests: list[Request], warmup: list[Request], connection: Connection) -> None:
    """Sends (seconds until ready, seconds of all requests, answers), or an error message."""
    try:
        baseline = TransformersBaseline(load_checkpoint(SEEDLING), torch.float32)
        baseline.select_attention([get_image(warmup[0])])
        baseline.model.forward = torch.compile(baseline.model.forward, dynamic=True)  # prompts differ in length
        start = time.perf_counter()
        for one in warmup:
            baseline.generate([one], cache_implementation="static", disable_compile=True)
        ready = time.perf_counter() - start
        start = time.perf_counter()
        answers = [baseline.generate([one], cache_implementation="static", disable_compile=True)[0] for one in requests]
        connection.send((ready, time.perf_counter() - start, answers))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0][:160])


def main(
    count: Annotated[int, typer.Option(min=4, help="Requests.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints requests per second of all systems."""
    requests, warmup = make_new_image_requests(count), make_new_image_requests(8, first=9000)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=run_compiled, args=(requests, warmup, sender), daemon=True)
    process.start()
    result: object = "not ready in time"
    if receiver.poll(COMPILE_TIMEOUT + 60):
        result = receiver.recv()
    process.terminate()
    process.join()
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    baseline = TransformersBaseline(checkpoint, torch.float32)
    run_in_thread(lambda: baseline.select_attention([get_image(warmup[0])]))
    run_in_thread(lambda: baseline.generate_one_by_one(warmup))
    plain_seconds, answers = time_call(lambda: baseline.generate_one_by_one(requests))
    with Engine(checkpoint) as engine:
        run_concurrently(engine, warmup)
        florist_seconds, _ = time_call(lambda: [run_concurrently(engine, [one]) for one in requests])
    workload = f"seedling, fp32, greedy, {count} requests one at a time"
    measurements = [Measurement(workload, "transformers", count / plain_seconds, "requests/s", 1.0)]
    name = "transformers, static cache and torch.compile"
    if isinstance(result, tuple):
        ready, seconds, tokens = result
        same = sum(a == b for a, b in zip(tokens, answers, strict=True))
        note = f"{ready:.0f} s to compile; same tokens in {same} of {count}"
        speedup = plain_seconds / seconds
        measurements.append(Measurement(workload, name, count / seconds, "requests/s", speedup, None, note))
    else:
        measurements.append(Measurement(workload, name, 0.0, "requests/s", None, None, str(result)))
    speedup = plain_seconds / florist_seconds
    measurements.append(Measurement(workload, "florist", count / florist_seconds, "requests/s", speedup))
    report_measurements("transformers with torch.compile", measurements, out)


if __name__ == "__main__":
    typer.run(main)
