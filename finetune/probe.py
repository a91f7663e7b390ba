"""What a model still knows of the base's own world, before and after: by a fixed set of drawn scenes, all 15 tasks, or
by pictures of a dataset.

Forgetting is what a fine-tune costs elsewhere; the report shows it task by task.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from finetune.datasets.example import Example
from finetune.evaluation.corrections import Tally
from finetune.report import measure
from finetune.tuning.judge import Judge, main_tasks
from server.engine.engine import Engine

SCENES = 40


def probe(engine: Engine, adapter: str | None = None, scenes: int = SCENES) -> dict[str, float]:
    """Task token → how good the answers are, 0 to 1: the mean of the task's figures in `finetune.report`, on known
    glyph sets. About 16 questions a scene."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in measure(engine, scenes, adapter=adapter).items():
        token = name.split(" ")[0]
        if token.startswith("<"):
            found[token].append(value)
    return {token: float(np.mean(values)) for token, values in found.items()}


def probe_dataset(
    engine: Engine, examples: Sequence[Example], labels: Sequence[str], adapter: str | None = None
) -> dict[str, float]:
    """Task token → corrections per 100 labels on pictures of the base's own world; `labels`: of their whole dataset."""
    found = {}
    for token in main_tasks(examples, ()):
        judge = Judge(examples, labels, [token])
        if judge.labels:
            found[token] = sum(judge.tallies(engine, adapter), Tally()).per_hundred
    return found


def more(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Task token → corrections per 100 labels more; less than 0 where there are fewer. `mean` is that of all tasks."""
    added = {token: after[token] - value for token, value in before.items()}
    return {**added, "mean": float(np.mean(list(added.values()))) if added else 0.0}


def price(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Task token → points (0 to 100) lost; less than 0 where it got better. `mean` is that of all tasks."""
    lost = {token: 100 * (before[token] - after[token]) for token in before if token in after}
    return {**lost, "mean": float(np.mean(list(lost.values()))) if lost else 0.0}
