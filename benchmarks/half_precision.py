"""Sixteen bits against thirty-two: how many answers of the seedling stay the same, and how far its boxes move.

`python -m benchmarks.half_precision`. Unseen scenes, all tasks, greedy. A token counts where the answer in fp32 has the same
at the same place; after the first that differs the rest often follows other words, so whole answers are counted too.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.machine import apart
from benchmarks.results import Row, show
from benchmarks.workloads import every_task
from labels.geometry import box_iou
from prompts.annotations import Box
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request, Result

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def answers(dtype: torch.dtype, requests: list[Request]) -> list[Result]:
    """All of them, from an engine in this type."""
    checkpoint = apart(lambda: load_checkpoint(SEEDLING, dtype=dtype))
    with Engine(checkpoint, EngineConfig(max_waiting=len(requests))) as engine:
        handles = [engine.submit(request) for request in requests]
        return [handle.wait() for handle in handles]


def overlaps(exact: Result, rough: Result) -> list[float]:
    """The IoU of each box with the likest of the same label in the other answer; 0 where there is none."""
    boxes = [a for a in rough.annotations if isinstance(a, Box)]
    return [
        max((box_iou(a.box, b.box) for b in boxes if b.label == a.label), default=0.0)
        for a in exact.annotations
        if isinstance(a, Box)
    ]


def main(
    scenes: Annotated[int, typer.Option(min=1, help="Scenes, each asked every task.")] = 24,
    beams: Annotated[int, typer.Option(min=1, help="Beams.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints match rates and overlaps of each type."""
    requests = every_task(scenes, beams)
    exact = answers(torch.float32, requests)
    rows = []
    work = (
        f"seedling, {len(requests)} prompts on {scenes} unseen scenes, {'greedy' if beams == 1 else f'{beams} beams'}"
    )
    for name, dtype in TYPES.items():
        rough = answers(dtype, requests)
        pairs = list(zip(exact, rough, strict=True))
        tokens = [i < len(b.tokens) and token == b.tokens[i] for a, b in pairs for i, token in enumerate(a.tokens)]
        ious = [iou for a, b in pairs for iou in overlaps(a, b)]
        rows += [
            Row(work, f"{name}: tokens as in fp32", 100 * float(np.mean(tokens)), "%"),
            Row(
                work,
                f"{name}: whole answers as in fp32",
                100 * float(np.mean([a.tokens == b.tokens for a, b in pairs])),
                "%",
            ),
            Row(
                work,
                f"{name}: IoU of boxes with those of fp32, mean",
                float(np.mean(ious)),
                "",
                note=f"{len(ious)} boxes",
            ),
            Row(work, f"{name}: boxes with IoU of 0.9 and more", 100 * float(np.mean(np.array(ious) >= 0.9)), "%"),
        ]
    show("Sixteen bits against fp32", rows, out)


if __name__ == "__main__":
    typer.run(main)
