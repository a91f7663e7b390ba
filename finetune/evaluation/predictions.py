"""Predictions: what an engine answers to the prompts of labeled images."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from labels.dataset import UnusableEntry
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation
from prompts.class_lists import ClassList
from server.engine.answer_handles import AnswerHandle
from server.engine.class_lists import list_known_classes, submit_held
from server.engine.engine import Engine
from server.engine.errors import InvalidRequestError, OverloadedError
from server.engine.request import Request

_CLIENT = "evaluation"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one sample of an image: `predicted`, to be compared with `truth`. `left_out`: what it had of other
    classes than those of the class list."""

    image: LabeledImage
    sample: Sample
    predicted: tuple[Annotation, ...]
    left_out: tuple[Annotation, ...] = ()

    @property
    def truth(self) -> tuple[Annotation, ...]:
        """The true answer."""
        return self.sample.answer


@dataclass(slots=True)
class ImagePredictions:
    """The predictions of one image. `failures`: an unreadable image, and prompts that the model cannot process."""

    image: LabeledImage
    predictions: list[Prediction] = field(default_factory=list)
    failures: list[UnusableEntry] = field(default_factory=list)


_Pending = tuple[ImagePredictions, list[tuple[Sample, AnswerHandle]]]


def predict(
    engine: Engine,
    samples: Iterable[tuple[LabeledImage, Sequence[Sample]]],
    adapter: str | None = None,
    class_list: ClassList | None = None,
) -> Iterator[ImagePredictions]:
    """Yields the predictions of each image, in order. `class_list`: what answers with classes are held to.

    Prompts fill the engine's batches, with a lower priority than interactive ones; if its queue is full, this waits.
    Raises the model's errors and EngineClosedError.
    """
    pending: deque[_Pending] = deque()
    window = 4 * engine.config.max_batch
    known = list_known_classes(engine, adapter) if class_list else ()
    for image, own_samples in samples:
        while pending and sum(len(handles) for _, handles in pending) >= window:
            yield _collect(*pending.popleft())
        result = ImagePredictions(image)
        handles: list[tuple[Sample, AnswerHandle]] = []
        try:
            prepared = engine.prepare(image.open())
        except (OSError, ImageError) as error:
            result.failures.append(UnusableEntry(image.source, f"the image cannot be read: {error}"))
            own_samples = ()
        for sample in own_samples:
            try:
                request = Request(
                    prepared, sample.task, sample.text, sample.region, adapter=adapter, client=_CLIENT,
                    interactive=False,
                )  # fmt: skip
                submit = partial(_submit, engine, pending)
                handles.append((sample, submit_held(submit, request, class_list, known)))
            except InvalidRequestError as error:
                reason = f"{sample.task.token} cannot be processed: {error}"
                result.failures.append(UnusableEntry(image.source, reason))
        pending.append((result, handles))
    while pending:
        yield _collect(*pending.popleft())


def _submit(engine: Engine, pending: Iterable[_Pending], request: Request) -> AnswerHandle:
    """Submits a prompt; waits while the queue is full."""
    while True:
        try:
            return engine.submit(request)
        except OverloadedError as error:
            waiting = [handle for _, handles in pending for _, handle in handles if not handle.done()]
            if waiting:
                waiting[0].wait()
            else:  # other clients have filled the queue
                time.sleep(min(error.retry_after, 1.0))


def _collect(result: ImagePredictions, handles: Sequence[tuple[Sample, AnswerHandle]]) -> ImagePredictions:
    for sample, handle in handles:
        answer = handle.wait()
        prediction = Prediction(result.image, sample, tuple(answer.annotations), tuple(answer.left_out))
        result.predictions.append(prediction)
    return result
