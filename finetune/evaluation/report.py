"""Evaluation of a model: its predictions for the samples of a dataset, and what they are worth."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.datasets.samples import find_trainable_tasks, make_samples
from finetune.evaluation import captions
from finetune.evaluation.corrections import (
    CATEGORY_TASK,
    CorrectionCounts,
    count_corrections,
    count_labels,
    find_corrections,
)
from finetune.evaluation.matching import normalize_class
from finetune.evaluation.metrics import DESCRIPTION_TASKS, collect_scores, compute_metrics, get_task_order
from finetune.evaluation.predictions import Prediction, predict
from finetune.evaluation.reliability import Scores, bin_scores
from labels.dataset import UnusableEntry
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.class_lists import ClassList, describe_left_out
from prompts.tasks import AnswerKind, Task
from server.engine.engine import Engine

_CLASS_ANSWERS = (AnswerKind.BOXES, AnswerKind.PHRASES, AnswerKind.BOXES_OR_POLYGONS)


class TaskReport:
    """The predictions for one task, and their metrics."""

    def __init__(self, task: Task, predictions: Sequence[Prediction]) -> None:
        self.task, self.predictions = task, predictions

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """The metrics that the task's field reports, by name."""
        return compute_metrics(self.task, self.predictions)

    @cached_property
    def counts_by_image(self) -> Mapping[str, CorrectionCounts]:
        """The corrections of each image by its name, in order: the input of a paired bootstrap."""
        counts: dict[str, CorrectionCounts] = {}
        for p in self.predictions:
            own = count_corrections(p.predicted, p.truth, self.task)
            counts[p.image.name] = counts.get(p.image.name, CorrectionCounts()) + own
        return counts

    @cached_property
    def corrections(self) -> CorrectionCounts:
        """The corrections of all images together."""
        return sum(self.counts_by_image.values(), CorrectionCounts())

    @cached_property
    def counts_by_class(self) -> Mapping[str, CorrectionCounts]:
        """The corrections by class, most corrections first; empty if the answers of the task are not classes."""
        if self.task.answer_kind not in _CLASS_ANSWERS and self.task.token != CATEGORY_TASK:
            return {}
        counts: dict[str, CorrectionCounts] = {}
        for p in self.predictions:
            corrections = find_corrections(p.predicted, p.truth, self.task)
            for label in {normalize_class(a.label) for a in (*p.predicted, *p.truth)}:
                truth = [a for a in p.truth if normalize_class(a.label) == label]
                own = [c for c in corrections if normalize_class(c.label) == label]
                added = CorrectionCounts.from_corrections(own, count_labels(truth, self.task))
                counts[label] = counts.get(label, CorrectionCounts()) + added
        return dict(sorted(counts.items(), key=lambda item: (-item[1].total, -item[1].labels, item[0])))

    @cached_property
    def scores(self) -> Scores:
        """The score of each predicted annotation, and whether the annotation is correct."""
        return collect_scores(self.task, self.predictions)

    def to_json(self) -> dict[str, Any]:
        """Returns the metrics without the predictions."""
        counts = self.corrections
        rate = {"per_100_labels": counts.per_hundred} if counts.labels else {}  # JSON has no NaN
        return {
            "prompts": len(self.predictions),
            "corrections": {**rate, "total": counts.total, **asdict(counts)},
            "metrics": dict(self.metrics),
            "classes": {label: {"total": own.total, **asdict(own)} for label, own in self.counts_by_class.items()},
            "reliability": [asdict(one) for one in bin_scores(self.scores)],
        }


@dataclass(frozen=True)
class EvaluationReport:
    """The evaluation of a model, or of an adapter on it.

    `sha256` and `adapter_sha256`: hashes of the weights; `images`: the number of images; `tasks`: by token, in the
    order of the task table; `failures`: images and prompts that could not be processed; `class_list`: what answers with
    classes were held to, None if they were free.
    """

    model: str
    sha256: str
    adapter: str | None
    adapter_sha256: str | None
    images: int
    tasks: Mapping[str, TaskReport]
    failures: Sequence[UnusableEntry] = ()
    class_list: ClassList | None = None

    @property
    def remarks(self) -> list[str]:
        """The class list that answers were held to; metrics that are missing, and how to get them."""
        remarks = []
        held = [token for token, report in self.tasks.items() if report.task.answers_classes]
        if self.class_list is not None and held:
            names, origin = self.class_list.names, self.class_list.origin
            sentence = f"answers to {', '.join(held)} were held to the {len(names):,} classes of {origin}"
            remarks.append(self.class_list.warning or sentence)
            predictions = (p for token in held for p in self.tasks[token].predictions)
            if left_out := describe_left_out(each.label for p in predictions for each in p.left_out):
                remarks.append(left_out)
        if self.tasks.keys() & set(DESCRIPTION_TASKS) and not captions.can_score_captions():
            remarks.append(captions.describe_missing())
        search = self.tasks.get("<OPEN_VOCABULARY_DETECTION>")
        if search and all(p.truth for p in search.predictions):
            remarks.append(
                f"{search.task.token} was only prompted for labels that are in the image, so its false positives are "
                "not measured; add images that are known to lack a label"
            )
        return remarks

    def to_json(self) -> dict[str, Any]:
        """Returns all metrics without the predictions."""
        return {
            "model": self.model,
            "model_sha256": self.sha256,
            "adapter": self.adapter,
            "adapter_sha256": self.adapter_sha256,
            "images": self.images,
            "class_list": list(self.class_list.names) if self.class_list and not self.class_list.problem else None,
            "tasks": {token: task.to_json() for token, task in self.tasks.items()},
            "remarks": self.remarks,
            "failures": [str(failure) for failure in self.failures],
        }

    def save(self, path: Path) -> None:
        """Writes the metrics as JSON. Raises OSError."""
        path.write_text(json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_evaluation_samples(
    images: Sequence[LabeledImage], tasks: Iterable[str] | None = None, *, classes: Sequence[str] = (), seed: int = 0
) -> list[tuple[LabeledImage, list[Sample]]]:
    """Makes the samples of each image for `tasks` (tokens); None: all tasks that the labels allow.

    `classes`: those of the dataset, to prompt for absent objects. Random choices (which region, which class) depend
    only on `seed` and the position of the image, so that two models get the same prompts.
    """
    wanted = {token for image in images for token in find_trainable_tasks(image)} if tasks is None else set(tasks)
    tokens = sorted(wanted, key=get_task_order)
    return [
        (image, make_samples(image, tokens, classes=classes, rng=np.random.default_rng((seed, i))))
        for i, image in enumerate(images)
    ]


def evaluate_samples(
    engine: Engine,
    samples: Iterable[tuple[LabeledImage, Sequence[Sample]]],
    *,
    adapter: str | None = None,
    class_list: ClassList | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> EvaluationReport:
    """Evaluates a model on given samples.

    `adapter`: the name of a loaded adapter; `class_list`: what answers with classes are held to; `on_image` is called
    after each image. Raises the engine's errors.
    """
    by_task: dict[Task, list[Prediction]] = {}
    failures: list[UnusableEntry] = []
    images = 0
    for result in predict(engine, samples, adapter, class_list):
        images += 1
        failures += result.failures
        for prediction in result.predictions:
            by_task.setdefault(prediction.sample.task, []).append(prediction)
        on_image()
    tasks = sorted(by_task, key=lambda task: get_task_order(task.token))
    hashes = {loaded.name: loaded.sha256 for loaded in engine.list_adapters()}
    return EvaluationReport(
        model=engine.checkpoint.name,
        sha256=engine.checkpoint.sha256,
        adapter=adapter,
        adapter_sha256=hashes.get(adapter) if adapter else None,
        images=images,
        tasks={task.token: TaskReport(task, by_task[task]) for task in tasks},
        failures=failures,
        class_list=class_list,
    )
