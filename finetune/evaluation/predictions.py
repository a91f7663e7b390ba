"""Predictions: what an engine answers to the prompts of labeled images."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from labels.dataset import UnusableEntry
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation
from prompts.class_lists import ClassList
from server.engine.class_lists import hold_class_list
from server.engine.engine import Engine
from server.engine.errors import InvalidRequestError, OverloadedError
from server.engine.handle import Handle
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request

_CLIENT = "evaluation"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one sample of an image: `predicted`, to be compared with `truth`."""

    image: LabeledImage
    sample: Sample
    predicted: tuple[Annotation, ...]

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


_Pending = tuple[ImagePredictions, list[tuple[Sample, Handle]]]


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
    for image, own_samples in samples:
        while pending and sum(len(handles) for _, handles in pending) >= window:
            yield _collect(*pending.popleft())
        result = ImagePredictions(image)
        handles: list[tuple[Sample, Handle]] = []
        try:
            prepared = engine.prepare(image.open())
        except (OSError, ImageError) as error:
            result.failures.append(UnusableEntry(image.source, f"the image cannot be read: {error}"))
            own_samples = ()
        for sample in own_samples:
            try:
                handles.append((sample, _submit(engine, _make_request(prepared, sample, adapter, class_list), pending)))
            except InvalidRequestError as error:
                reason = f"{sample.task.token} cannot be processed: {error}"
                result.failures.append(UnusableEntry(image.source, reason))
        pending.append((result, handles))
    while pending:
        yield _collect(*pending.popleft())


def _make_request(image: PreparedImage, sample: Sample, adapter: str | None, class_list: ClassList | None) -> Request:
    request = Request(
        image, sample.task, sample.text, sample.region, adapter=adapter, client=_CLIENT, interactive=False
    )
    return hold_class_list(request, class_list)


def _submit(engine: Engine, request: Request, pending: Iterable[_Pending]) -> Handle:
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


def _collect(result: ImagePredictions, handles: Sequence[tuple[Sample, Handle]]) -> ImagePredictions:
    for sample, handle in handles:
        result.predictions.append(Prediction(result.image, sample, tuple(handle.wait().annotations)))
    return result
