"""What a model still knows of the base's own world, before and after: by a fixed set of drawn scenes, all 15 tasks, or
by pictures of a dataset.

Forgetting is what a fine-tune costs elsewhere; the report shows it task by task.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.evaluation.corrections import Tally
from finetune.tuning.validation import Judge, main_tasks
from labels.labeled_image import LabeledImage
from seedling.report import measure
from server.engine.engine import Engine

SCENES = 40
Figures = dict[str, float]  # by task token


@dataclass(frozen=True, slots=True)
class Probe:
    """What tells what is forgotten. `about`: by how many `scenes` or `pictures`, and `what` is told of each task;
    `ask`: an engine's figures, as an adapter (None: its model alone) answers; `lost`: of the base's and the model's,
    what is told, and its `mean`."""

    about: dict[str, Any]
    ask: Callable[[Engine, str | None], Figures]
    lost: Callable[[Figures, Figures], Figures]


def drawn(scenes: int = SCENES) -> Probe:
    """By drawn scenes, the seedling's own world."""
    about = {"scenes": scenes, "what": "points of 100 lost on the base's own tasks"}
    return Probe(about, lambda engine, adapter: probe(engine, adapter, scenes), price)


def pictured(examples: Sequence[LabeledImage], labels: Sequence[str], dataset: str) -> Probe:
    """By pictures that are kept back from what is replayed of a dataset; `labels`: of all of it."""
    what = f"corrections per 100 labels more on {len(examples)} pictures of {dataset}"
    about = {"pictures": len(examples), "what": what}
    return Probe(about, lambda engine, adapter: probe_dataset(engine, examples, labels, adapter), more)


def probe(engine: Engine, adapter: str | None = None, scenes: int = SCENES) -> Figures:
    """Task token → how good the answers are, 0 to 1: the mean of the task's figures in `seedling.report`, on known
    glyph sets. About 16 questions a scene."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in measure(engine, scenes, adapter=adapter).items():
        token = name.split(" ")[0]
        if token.startswith("<"):
            found[token].append(value)
    return {token: float(np.mean(values)) for token, values in found.items()}


def probe_dataset(
    engine: Engine, examples: Sequence[LabeledImage], labels: Sequence[str], adapter: str | None = None
) -> Figures:
    """Task token → corrections per 100 labels on pictures of the base's own world; `labels`: of their whole dataset."""
    found = {}
    for token in main_tasks(examples, ()):
        judge = Judge(examples, labels, [token])
        if judge.labels:
            found[token] = sum(judge.tallies(engine, adapter), Tally()).per_hundred
    return found


def more(before: Figures, after: Figures) -> Figures:
    """Task token → corrections per 100 labels more; less than 0 where there are fewer. `mean` is that of all tasks."""
    added = {token: after[token] - value for token, value in before.items()}
    return {**added, "mean": float(np.mean(list(added.values()))) if added else 0.0}


def price(before: Figures, after: Figures) -> Figures:
    """Task token → points (0 to 100) lost; less than 0 where it got better. `mean` is that of all tasks."""
    lost = {token: 100 * (before[token] - after[token]) for token in before if token in after}
    return {**lost, "mean": float(np.mean(list(lost.values()))) if lost else 0.0}
