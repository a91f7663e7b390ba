"""The seedling's own forgetting evaluation: a fixed set of drawn scenes with all 15 tasks."""

from collections import defaultdict
from typing import Any

import numpy as np

from finetune.forgetting import TaskMetrics
from seedling.report import measure
from server.engine.engine import Engine

SCENES = 40


class SceneForgetting:
    """Measures forgetting by drawn scenes."""

    def __init__(self, scenes: int = SCENES) -> None:
        self._scenes = scenes

    @property
    def description(self) -> dict[str, Any]:
        """The number of scenes, and what is measured."""
        return {"scenes": self._scenes, "metric": "points of 100 lost on the base's own tasks"}

    def evaluate(self, engine: Engine, adapter: str | None = None) -> TaskMetrics:
        """Returns the quality of the answers, 0 to 1."""
        return measure_quality(engine, adapter, self._scenes)

    def compute_loss(self, before: TaskMetrics, after: TaskMetrics) -> TaskMetrics:
        """Returns the lost points."""
        return compute_lost_points(before, after)


def measure_quality(engine: Engine, adapter: str | None = None, scenes: int = SCENES) -> TaskMetrics:
    """Returns the quality of each task's answers, 0 to 1: the mean of its metrics in `seedling.report`.

    The scenes use glyph sets of the training. Each has about 16 prompts.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in measure(engine, scenes, adapter=adapter).items():
        token = name.split(" ")[0]
        if token.startswith("<"):
            values[token].append(value)
    return {token: float(np.mean(own)) for token, own in values.items()}


def compute_lost_points(before: TaskMetrics, after: TaskMetrics) -> TaskMetrics:
    """Returns the points (0 to 100) that each task lost, and their `mean`; negative if it became better."""
    lost = {token: 100 * (before[token] - after[token]) for token in before if token in after}
    return {**lost, "mean": float(np.mean(list(lost.values()))) if lost else 0.0}
