"""Forgetting: how much worse a fine-tuned model is than its base on the base's own domain."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from finetune.evaluation.corrections import CorrectionCounts
from finetune.tuning.validation import ValidationSet, select_main_tasks
from labels.labeled_image import LabeledImage
from server.engine.engine import Engine

TaskMetrics = dict[str, float]
"""A metric by task token."""


class ForgettingEvaluation(Protocol):
    """A way to measure forgetting."""

    @property
    def description(self) -> dict[str, Any]:
        """The number of `images` or `scenes`, and the `metric` of `compute_loss` in words."""
        ...

    def evaluate(self, engine: Engine, adapter: str | None = None) -> TaskMetrics:
        """Returns the metric of each task. `adapter`: the name of a loaded adapter; None: the model alone."""
        ...

    def compute_loss(self, before: TaskMetrics, after: TaskMetrics) -> TaskMetrics:
        """Returns how much worse each task became, and their `mean`; negative if it became better."""
        ...


class DatasetForgetting:
    """Measures forgetting by images of a dataset that are not replayed. `classes`: of the complete dataset."""

    def __init__(self, images: Sequence[LabeledImage], classes: Sequence[str], dataset: str) -> None:
        self._images, self._classes, self._dataset = images, classes, dataset

    @property
    def description(self) -> dict[str, Any]:
        """The number of images, and what is measured."""
        metric = f"added corrections per 100 labels on {len(self._images)} images of {self._dataset}"
        return {"images": len(self._images), "metric": metric}

    def evaluate(self, engine: Engine, adapter: str | None = None) -> TaskMetrics:
        """Returns corrections per 100 labels."""
        return measure_corrections(engine, self._images, self._classes, adapter)

    def compute_loss(self, before: TaskMetrics, after: TaskMetrics) -> TaskMetrics:
        """Returns the added corrections per 100 labels."""
        return compute_added_corrections(before, after)


def measure_corrections(
    engine: Engine, images: Sequence[LabeledImage], classes: Sequence[str], adapter: str | None = None
) -> TaskMetrics:
    """Returns corrections per 100 labels for each main task. `classes`: of the images' complete dataset."""
    metrics = {}
    for token in select_main_tasks(images, ()):
        validation_set = ValidationSet(images, classes, [token])
        if validation_set.label_count:
            metrics[token] = sum(validation_set.count_corrections(engine, adapter), CorrectionCounts()).per_hundred
    return metrics


def compute_added_corrections(before: TaskMetrics, after: TaskMetrics) -> TaskMetrics:
    """Returns the increase of corrections per 100 labels for each task, and their `mean`."""
    added = {token: after[token] - value for token, value in before.items()}
    return {**added, "mean": float(np.mean(list(added.values()))) if added else 0.0}
