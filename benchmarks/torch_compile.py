"""transformers with a static cache and torch.compile, on the seedling: whether it runs, what it costs, what it gives.

`python -m benchmarks.torch_compile`. The decoder's forward pass is compiled as `generate` does it for a static cache; the
time until the first answer is what a server would wait at its start. It is given two minutes.
"""

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.machine import apart, timed
from benchmarks.results import Row, show
from benchmarks.transformers_baseline import PATIENCE, Transformers
from benchmarks.workloads import new_pictures, together
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.engine.request import Request


def compiled(requests: list[Request], unseen: list[Request], answer: Connection) -> None:
    """Sends seconds until the first answer, seconds of all, and the answers; or what went wrong."""
    try:
        theirs = Transformers(load_checkpoint(SEEDLING), torch.float32)
        theirs.tune([unseen[0].image])
        theirs.network.forward = torch.compile(theirs.network.forward, dynamic=True)  # prompts differ in length
        start = time.perf_counter()
        for one in unseen:
            theirs.answer([one], cache_implementation="static", disable_compile=True)
        ready = time.perf_counter() - start
        start = time.perf_counter()
        said = [theirs.answer([one], cache_implementation="static", disable_compile=True)[0] for one in requests]
        answer.send((ready, time.perf_counter() - start, said))
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}".splitlines()[0][:160])


def main(
    count: Annotated[int, typer.Option(min=4, help="Requests.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints requests a second of both sides."""
    requests, unseen = new_pictures(count), new_pictures(8, first=9000)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=compiled, args=(requests, unseen, theirs), daemon=True)
    process.start()
    said: object = "it was not ready"
    if ours.poll(PATIENCE + 60):
        said = ours.recv()
    process.terminate()
    process.join()
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    plain = Transformers(checkpoint, torch.float32)
    apart(lambda: plain.tune([unseen[0].image]))
    apart(lambda: plain.one_at_a_time(unseen))
    alone, answers = timed(lambda: plain.one_at_a_time(requests))
    with Engine(checkpoint) as engine:
        together(engine, unseen)
        took, _ = timed(lambda: [together(engine, [one]) for one in requests])
    work = f"seedling, fp32, greedy, {count} requests one at a time"
    rows = [Row(work, "transformers", count / alone, "requests/s", 1.0)]
    if isinstance(said, tuple):
        ready, all_, tokens = said
        alike = sum(a == b for a, b in zip(tokens, answers, strict=True))
        note = f"{ready:.0f} s until it is compiled; the same tokens in {alike} of {count}"
        rows.append(
            Row(work, "transformers, static cache and compiled", count / all_, "requests/s", alone / all_, None, note)
        )
    else:
        rows.append(Row(work, "transformers, static cache and compiled", 0.0, "requests/s", None, None, str(said)))
    rows.append(Row(work, "florist", count / took, "requests/s", alone / took))
    show("transformers compiled", rows, out)


if __name__ == "__main__":
    typer.run(main)
