"""Offline, mixed lengths: Florence-2-base's shape, answers of 5, 15, 60 and 300 tokens, florist against transformers.

`python -m benchmarks.mixed_lengths`. Random weights, the same on both sides, whose answers never end by themselves; each has
its own `max_new_tokens`. Every request has a picture of its own, and neither side keeps anything of another round.

transformers runs one at a time (on the first `--alone` requests: its time there is a sum, so that a part tells the
whole), and all in one padded batch, which its longest answer ends. With `--sorted N` also in batches of N sorted by the
answers' lengths, which no server knows beforehand: the best that batches of whole requests could do.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import base_checkpoint
from benchmarks.machine import apart, measure, timed
from benchmarks.results import Row, show
from benchmarks.roofline import Floor
from benchmarks.transformers_baseline import Transformers
from benchmarks.workloads import forced, scenes, together
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine

LENGTHS = (5, 15, 60, 300)
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compare(folder: Path, dtype: str, beams: int, count: int, alone: int, by_length: int) -> list[Row]:
    """Seconds a request of all sides, in one type and search."""
    kind = TYPES[dtype]
    checkpoint = apart(lambda: load_checkpoint(str(folder), dtype=kind))
    images = [scene.image for scene in scenes(count)]
    requests = forced(images, [LENGTHS[i % len(LENGTHS)] for i in range(count)], beams)
    theirs = Transformers(checkpoint, kind)
    unseen = forced([scenes(1, first=900)[0].image], [3], beams)  # to warm up with
    apart(lambda: theirs.tune([unseen[0].image]))
    apart(lambda: theirs.answer(unseen))
    sides = {
        "transformers, one at a time": lambda: theirs.one_at_a_time(requests[:alone]),
        f"transformers, one batch of {count}": lambda: theirs.answer(requests),
    }
    if by_length:
        name = f"transformers, batches of {by_length}, sorted by length"
        sides[name] = lambda: theirs.batched(requests, by_length, lambda r: r.max_new_tokens)
    took, answers = {}, {}
    for name, side in sides.items():
        taken, answers[name] = timed(side)
        took[name] = taken / len(answers[name])
    with Engine(checkpoint, EngineConfig(max_batch=16)) as engine:
        together(engine, unseen)
        taken, answers["florist"] = timed(lambda: together(engine, requests))
        took["florist"] = taken / count
    floor = Floor.of(checkpoint.model.config, base_checkpoint.SIDE, checkpoint.image_tokens + 13, kind, measure(kind))
    least = floor.seconds(count, [r.max_new_tokens or 0 for r in requests], beams=beams) / count
    alike = sum(a == b for a, b in zip(answers["transformers, one at a time"], answers["florist"], strict=False))
    work = f"{dtype}, {'greedy' if beams == 1 else f'{beams} beams'}"
    first = took["transformers, one at a time"]
    note = f"the same tokens in {alike} of {alone}"
    return [
        Row(work, name, taken, "s a request", first / taken, least / taken, note if name == "florist" else "")
        for name, taken in took.items()
    ]


def main(
    dtype: Annotated[list[str], typer.Option(help="Types of the weights.")] = ["bfloat16", "float32"],  # noqa: B006
    beams: Annotated[list[int], typer.Option(help="Beams.")] = [1, 3],  # noqa: B006
    count: Annotated[int, typer.Option(min=4, help="Requests, a picture each.")] = 8,
    alone: Annotated[int, typer.Option(min=1, help="Of them, those that transformers answers one at a time.")] = 4,
    by_length: Annotated[int, typer.Option("--sorted", help="Batches sorted by length, of so many.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints seconds a request of all sides, their ratio, and the share of the floor that each reaches."""
    with tempfile.TemporaryDirectory() as folder:
        base_checkpoint.save(Path(folder))
        rows = [
            row
            for kind in dtype
            for width in beams
            for row in compare(Path(folder), kind, width, count, alone, by_length)
        ]
    lengths = ", ".join(map(str, LENGTHS))
    show(f"Florence-2-base's shape, offline: {count} requests, answers of {lengths} tokens", rows, out)


if __name__ == "__main__":
    typer.run(main)
