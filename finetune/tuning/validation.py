"""Validation on holdout images by corrections per 100 labels."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from finetune.datasets.samples import find_trainable_tasks, make_samples
from finetune.evaluation.corrections import CorrectionCounts, count_corrections, count_labels
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation
from prompts.class_lists import ClassList
from server.engine.answer_handles import AnswerHandle
from server.engine.class_lists import list_known_classes, submit_held
from server.engine.engine import Engine
from server.engine.errors import InvalidRequestError
from server.engine.request import Request

# People correct the answers of these tasks; the other tasks follow from the same labels.
MAIN_TASKS = ("<OD>", "<OCR_WITH_REGION>", "<OCR>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
_SEED = 77  # of the samples: each validation uses the same


class ValidationStoppedError(Exception):
    """A stop was requested before the validation was complete."""


def select_main_tasks(images: Sequence[LabeledImage], tasks: Sequence[str]) -> list[str]:
    """Returns the tasks that measure how many labels a person must correct: those of `tasks` about whole images.

    `tasks`: none for all. If no such task has samples, all tasks with samples are returned.
    """
    available = {token for image in images for token in find_trainable_tasks(image)}
    available &= set(tasks) or available
    main = [token for token in MAIN_TASKS if token in available]
    return main or sorted(available)


class ValidationSet:
    """Holdout images with their samples, the same in each validation.

    `class_list`: what answers are held to, None for any class.
    """

    def __init__(
        self,
        images: Sequence[LabeledImage],
        classes: Sequence[str],
        tasks: Sequence[str],
        class_list: ClassList | None = None,
    ) -> None:
        self.images, self.class_list = images, class_list
        self.samples: list[list[Sample]] = [
            make_samples(image, tasks, classes=classes, rng=np.random.default_rng((_SEED, i)))
            for i, image in enumerate(images)
        ]

    @property
    def label_count(self) -> int:
        """The number of true labels."""
        return sum(count_labels(sample.answer, sample.task) for samples in self.samples for sample in samples)

    def count_corrections(
        self,
        engine: Engine,
        adapter: str | None = None,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        on_answer: Callable[[Sample, Sequence[Annotation]], None] = lambda sample, predicted: None,
        on_image: Callable[[], None] = lambda: None,
    ) -> list[CorrectionCounts]:
        """Returns the corrections of each image.

        `adapter`: the name of a loaded adapter; None: the engine's model alone; `on_answer` receives each sample with
        its answer; `on_image` is called when an image has all its answers. Raises ValidationStoppedError as soon as
        `should_stop` returns True.
        """
        window = engine.config.max_waiting // 2  # prompts in the queue, which other clients may use too
        known = list_known_classes(engine, adapter) if self.class_list else ()
        pending: deque[tuple[Sample, AnswerHandle | None]] = deque()
        counts: list[CorrectionCounts] = []
        ends = deque(accumulate(map(len, self.samples)))  # of the images, in samples

        def collect() -> None:
            if should_stop():
                for _, handle in pending:
                    if handle:
                        handle.cancel()
                raise ValidationStoppedError
            sample, handle = pending.popleft()
            if handle is None:
                counts.append(CorrectionCounts())
            else:
                predicted = handle.wait().annotations
                counts.append(count_corrections(predicted, sample.answer, sample.task))
                on_answer(sample, predicted)
            while ends and ends[0] <= len(counts):
                ends.popleft()
                on_image()

        for image, samples in zip(self.images, self.samples, strict=True):
            prepared = engine.prepare(image.open())
            for sample in samples:
                request = Request(prepared, sample.task, sample.text, sample.region, adapter=adapter, interactive=False)
                while len(pending) >= window:
                    collect()
                try:
                    pending.append((sample, submit_held(engine.submit, request, self.class_list, known)))
                except InvalidRequestError as error:
                    if error.field != "text":
                        raise
                    pending.append((sample, None))  # too long for the model, and therefore not trained either
        while pending:
            collect()
        remaining = iter(counts)
        return [sum((next(remaining) for _ in samples), CorrectionCounts()) for samples in self.samples]
