"""Constrained decoding on the seedling: what it costs, and what it mends.

`python -m benchmarks.constrained_decoding`. Unseen scenes, half of them drawn with the emoji set that the seedling was never
taught on, asked the tasks whose answers have a form; labels from the list of categories where a task names things.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import apart
from benchmarks.results import Row, show
from benchmarks.workloads import LONGEST, SEED
from finetune.evaluation.matching import Counts
from labels.geometry import box_iou
from labels.sample import Sample
from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS, AnswerKind
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Constraint, Request, Result

NAMING = ("<OD>", "<REGION_TO_CATEGORY>")  # whose labels are categories
LISTED = (*CATEGORIES, "word")  # what the seedling was taught to name; a region may hold printed words
FORMED = [token for token, task in TASKS.items() if task.answer_kind is not AnswerKind.TEXT or token in NAMING]


@dataclass
class Marks:
    """What came of one way of decoding. `seconds`: the decoder's."""

    results: list[Result]
    seconds: float
    steps: int

    @property
    def ms(self) -> float:
        """The decoder's milliseconds a token."""
        return self.seconds * 1e3 / sum(len(result.tokens) for result in self.results)


def asked(scenes: int) -> list[tuple[Sample, Request]]:
    """Questions and the requests that ask them."""
    found = []
    for i in range(scenes):
        scene = draw_scene(SEED + i, sets=(HOLDOUT_SET,) if i % 2 else TRAINING_SETS)
        rng = np.random.default_rng((SEED + i, 7))
        for token in FORMED:
            if q := samples.make_sample(scene, token, rng):
                request = Request(scene.image, q.task, q.text, q.region, max_new_tokens=LONGEST, num_beams=1)
                found.append((q, request))
    return found


def answered(engine: Engine, requests: Sequence[Request]) -> Marks:
    """All at once."""
    before = engine.get_stats()
    handles = [engine.submit(request) for request in requests]
    results = [handle.wait() for handle in handles]
    after = engine.get_stats()
    return Marks(results, after.decode_seconds - before.decode_seconds, after.steps - before.steps)


def constrained(request: Request) -> Request:
    """The same with its form kept, and its labels from the list where it names things."""
    labels = LISTED if request.task.token in NAMING else None
    return replace(request, constrain=Constraint(labels=labels))


def detection(pairs: Sequence[tuple[Sample, Result]]) -> float:
    """F1 of `<OD>` at IoU 0.5."""

    def alike(a: Annotation, b: Annotation) -> float:
        fit = isinstance(a, Box) and isinstance(b, Box) and a.label == b.label
        return box_iou(a.box, b.box) if fit else 0.0  # type: ignore[union-attr]

    counts = Counts()
    for question, result in pairs:
        if question.task.token == "<OD>":
            counts.add(result.annotations, question.answer, alike)
    return counts.f1


def category(pairs: Sequence[tuple[Sample, Result]]) -> float:
    """The share of `<REGION_TO_CATEGORY>` that is right."""
    own = [(q, r) for q, r in pairs if q.task.token == "<REGION_TO_CATEGORY>"]
    return sum([a.label for a in r.annotations] == [a.label for a in q.answer] for q, r in own) / len(own)


def main(
    scenes: Annotated[int, typer.Option(min=4, help="Scenes, each asked every task that has a form.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints time and faults with and without constraints."""
    asks = asked(scenes)
    free = [request for _, request in asks]
    bound = [constrained(request) for request in free]
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    with Engine(checkpoint, EngineConfig(max_waiting=len(asks))) as engine:
        for warm in (free[:32], bound[:32]):
            answered(engine, warm)
        sides = {"free": answered(engine, free), "constrained": answered(engine, bound)}
    work = f"seedling, {scenes} unseen scenes, {len(asks)} questions"
    known, rows = set(LISTED), []
    for name, marks in sides.items():
        rows.append(
            Row(f"{work}: what it costs", name, marks.ms, "ms a token in the decoder", sides["free"].ms / marks.ms)
        )
    for name, marks in sides.items():
        pairs = [(q, r) for (q, _), r in zip(asks, marks.results, strict=True)]
        labels = [a.label for q, r in pairs if q.task.token in NAMING for a in r.annotations]
        rows += [
            Row(f"{work}: what it mends", f"{name}: {what}", 100 * share, "%")
            for what, share in {
                "answers of which something is dropped": np.mean([bool(r.dropped) for r in marks.results]),
                "answers cut at the limit": np.mean([r.finish == "length" for r in marks.results]),
                "labels off the list": np.mean([label not in known for label in labels]),
                "detection, F1": detection(pairs),
                "categories of regions, right": category(pairs),
            }.items()
        ]
    show("Constrained decoding", rows, out)


if __name__ == "__main__":
    typer.run(main)
