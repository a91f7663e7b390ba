"""Constrained decoding on the seedling: its cost, and the errors it prevents.

`python -m benchmarks.constrained_decoding`. Unseen scenes, half of them with the glyph set that training never uses,
and all tasks whose answers have a structure. Where a task names objects, labels are restricted to the list of
categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import run_in_thread
from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import FIRST_SEED, MAX_ANSWER_TOKENS
from finetune.evaluation.matching import MatchCounts
from labels.sample import Sample
from prompts.tasks import TASKS, AnswerKind
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS
from seedling.scores import labeled_box_iou
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Constraint, Request, Result

NAMING_TASKS = ("<OD>", "<REGION_TO_CATEGORY>")
ALLOWED_LABELS = (*CATEGORIES, "word")  # what the seedling can name; a region may hold printed words
TOKENS = [t for t, task in TASKS.items() if task.answer_kind is not AnswerKind.TEXT or t in NAMING_TASKS]


@dataclass
class DecodingRun:
    """The results of one way of decoding, and the decoder's seconds."""

    results: list[Result]
    seconds: float

    @property
    def ms_per_token(self) -> float:
        """Decoder milliseconds per token."""
        return self.seconds * 1e3 / sum(len(result.tokens) for result in self.results)


def make_requests(scenes: int) -> list[tuple[Sample, Request]]:
    """Returns samples of unseen scenes with their requests."""
    pairs = []
    for i in range(scenes):
        scene = draw_scene(FIRST_SEED + i, sets=(HOLDOUT_SET,) if i % 2 else TRAINING_SETS)
        rng = np.random.default_rng((FIRST_SEED + i, 7))
        for token in TOKENS:
            if s := samples.make_sample(scene, token, rng):
                request = Request(scene.image, s.task, s.text, s.region, max_new_tokens=MAX_ANSWER_TOKENS, num_beams=1)
                pairs.append((s, request))
    return pairs


def run_requests(engine: Engine, requests: Sequence[Request]) -> DecodingRun:
    """Answers all requests at once."""
    before = engine.get_stats()
    handles = [engine.submit(request) for request in requests]
    results = [handle.wait() for handle in handles]
    return DecodingRun(results, engine.get_stats().decode_seconds - before.decode_seconds)


def add_constraint(request: Request) -> Request:
    """Returns the request with its structure enforced, and with allowed labels if the task names objects."""
    labels = ALLOWED_LABELS if request.task.token in NAMING_TASKS else None
    return replace(request, constrain=Constraint(labels=labels))


def compute_detection_f1(pairs: Sequence[tuple[Sample, Result]]) -> float:
    """Returns the F1 of `<OD>` at IoU 0.5."""
    counts = MatchCounts()
    for sample, result in pairs:
        if sample.task.token == "<OD>":
            counts.add(result.annotations, sample.answer, labeled_box_iou)
    return counts.f1


def compute_category_accuracy(pairs: Sequence[tuple[Sample, Result]]) -> float:
    """Returns the accuracy of `<REGION_TO_CATEGORY>`."""
    own = [(s, r) for s, r in pairs if s.task.token == "<REGION_TO_CATEGORY>"]
    return sum([a.label for a in r.annotations] == [a.label for a in s.answer] for s, r in own) / len(own)


def main(
    scenes: Annotated[int, typer.Option(min=4, help="Scenes, with every task that has a structure.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints decoding time and errors with and without constraints."""
    made = make_requests(scenes)
    free = [request for _, request in made]
    constrained = [add_constraint(request) for request in free]
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    with Engine(checkpoint, EngineConfig(max_waiting=len(made))) as engine:
        for warmup in (free[:32], constrained[:32]):
            run_requests(engine, warmup)
        runs = {"free": run_requests(engine, free), "constrained": run_requests(engine, constrained)}
    workload = f"seedling, {scenes} unseen scenes, {len(made)} prompts"
    allowed = set(ALLOWED_LABELS)
    measurements: list[Measurement] = []
    for name, run in runs.items():
        ms = run.ms_per_token
        unit, speedup = "ms/token in the decoder", runs["free"].ms_per_token / ms
        measurements.append(Measurement(f"{workload}: cost", name, ms, unit, speedup))
    for name, run in runs.items():
        pairs = [(s, r) for (s, _), r in zip(made, run.results, strict=True)]
        labels = [a.label for s, r in pairs if s.task.token in NAMING_TASKS for a in r.annotations]
        shares: dict[str, float] = {
            "malformed answers": float(np.mean([bool(r.dropped) for r in run.results])),
            "answers cut off at the limit": float(np.mean([r.finish == "length" for r in run.results])),
            "labels not in the list": float(np.mean([label not in allowed for label in labels])),
            "detection F1": compute_detection_f1(pairs),
            "region category accuracy": compute_category_accuracy(pairs),
        }
        measurements += [
            Measurement(f"{workload}: errors", f"{name}: {what}", 100 * share, "%") for what, share in shares.items()
        ]
    report_measurements("Constrained decoding", measurements, out)


if __name__ == "__main__":
    typer.run(main)
