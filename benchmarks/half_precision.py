"""bf16 and fp16 against fp32: how many answers of the seedling stay the same, and how far its boxes move.

`python -m benchmarks.half_precision`. Unseen scenes, all tasks, greedy decoding. A token counts if the fp32 answer has
the same token at the same position. After the first difference the rest often differs too, so identical answers are
counted as well.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.machine import run_in_thread
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import make_all_task_requests
from labels.geometry import box_iou
from prompts.annotations import Box
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request, Result

HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def run_engine(dtype: torch.dtype, requests: list[Request]) -> list[Result]:
    """Answers all requests with an engine of this type."""
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING, dtype=dtype))
    with Engine(checkpoint, EngineConfig(max_waiting=len(requests))) as engine:
        handles = [engine.submit(request) for request in requests]
        return [handle.wait() for handle in handles]


def compute_ious(exact: Result, other: Result) -> list[float]:
    """Returns, for each box, its largest IoU with a box of the same label in the other answer; 0 if there is none."""
    boxes = [a for a in other.annotations if isinstance(a, Box)]
    return [
        max((box_iou(a.box, b.box) for b in boxes if b.label == a.label), default=0.0)
        for a in exact.annotations
        if isinstance(a, Box)
    ]


def main(
    scenes: Annotated[int, typer.Option(min=1, help="Scenes, with all their tasks.")] = 24,
    beams: Annotated[int, typer.Option(min=1, help="Number of beams.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the shares of equal tokens and answers, and the IoU of boxes, for each type."""
    requests = make_all_task_requests(scenes, beams)
    exact = run_engine(torch.float32, requests)
    measurements = []
    search = "greedy" if beams == 1 else f"{beams} beams"
    workload = f"seedling, {len(requests)} prompts on {scenes} unseen scenes, {search}"
    for name, dtype in HALF_DTYPES.items():
        pairs = list(zip(exact, run_engine(dtype, requests), strict=True))
        tokens = [i < len(b.tokens) and token == b.tokens[i] for a, b in pairs for i, token in enumerate(a.tokens)]
        identical = [a.tokens == b.tokens for a, b in pairs]
        ious = [iou for a, b in pairs for iou in compute_ious(a, b)]
        note = f"{len(ious)} boxes"
        measurements += [
            Measurement(workload, f"{name}: tokens equal to fp32", 100 * float(np.mean(tokens)), "%"),
            Measurement(workload, f"{name}: answers identical to fp32", 100 * float(np.mean(identical)), "%"),
            Measurement(workload, f"{name}: mean IoU of boxes with fp32", float(np.mean(ious)), "", note=note),
            Measurement(workload, f"{name}: boxes with IoU ≥ 0.9", 100 * float(np.mean(np.array(ious) >= 0.9)), "%"),
        ]
    report_measurements("Half precision against fp32", measurements, out)


if __name__ == "__main__":
    typer.run(main)
