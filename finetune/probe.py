"""What a model still knows of the base's own world: a fixed set of drawn scenes, all 15 tasks, before and after.

Forgetting is what a fine-tune costs elsewhere; the report shows it task by task.
"""

from collections import defaultdict

import numpy as np

from finetune.report import measure
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


def price(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Task token → points (0 to 100) lost; less than 0 where it got better. `mean` is that of all tasks."""
    lost = {token: 100 * (before[token] - after[token]) for token in before if token in after}
    return {**lost, "mean": float(np.mean(list(lost.values()))) if lost else 0.0}
