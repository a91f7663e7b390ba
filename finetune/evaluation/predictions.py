"""Questions put to an engine, many at a time, and what it answers beside the truth."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from labels.dataset import UnusableEntry
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation
from server.engine.engine import Engine
from server.engine.errors import InvalidRequestError, OverloadedError
from server.engine.handle import Handle
from server.engine.model.preprocessing import Picture
from server.engine.request import Request

_CLIENT = "evaluation"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question about one picture: what was found, to be held against `question.answer`."""

    example: LabeledImage
    question: Sample
    found: tuple[Annotation, ...]


@dataclass(slots=True)
class Asked:
    """A picture's questions. `trouble`: of what could not be asked or read."""

    example: LabeledImage
    answers: list[Answered] = field(default_factory=list)
    trouble: list[UnusableEntry] = field(default_factory=list)


def ask(
    engine: Engine, questions: Iterable[tuple[LabeledImage, Sequence[Sample]]], adapter: str | None = None
) -> Iterator[Asked]:
    """Each picture with its answers, in order.

    Questions go into the engine's queue until its batches are full, behind those of people; where the queue is full,
    it waits. A picture that cannot be read, or a question that the model cannot take, is trouble of its own. Raises
    what the model fails with, and EngineClosedError.
    """
    flying: deque[tuple[Asked, list[tuple[Sample, Handle]]]] = deque()
    window = 4 * engine.max_batch
    for example, wanted in questions:
        while flying and sum(len(handles) for _, handles in flying) >= window:
            yield _answered(*flying.popleft())
        asked = Asked(example)
        handles: list[tuple[Sample, Handle]] = []
        try:
            picture = engine.prepare(example.open())
        except (OSError, ImageError) as error:
            asked.trouble.append(UnusableEntry(example.source, f"the picture cannot be read: {error}"))
            wanted = ()
        for question in wanted:
            try:
                handles.append((question, _submitted(engine, picture, question, adapter, flying)))
            except InvalidRequestError as error:
                asked.trouble.append(UnusableEntry(example.source, f"{question.task.token} cannot be asked: {error}"))
        flying.append((asked, handles))
    while flying:
        yield _answered(*flying.popleft())


def _submitted(
    engine: Engine,
    picture: Picture,
    question: Sample,
    adapter: str | None,
    flying: Iterable[tuple[Asked, list[tuple[Sample, Handle]]]],
) -> Handle:
    """Waits for room where there is none."""
    request = Request(
        picture, question.task, question.text, question.region, adapter=adapter, client=_CLIENT, interactive=False
    )
    while True:
        try:
            return engine.submit(request)
        except OverloadedError as error:
            waiting = [handle for _, handles in flying for _, handle in handles if not handle.done()]
            if waiting:
                waiting[0].wait()
            else:  # others have filled the queue
                time.sleep(min(error.retry_after, 1.0))


def _answered(asked: Asked, handles: Sequence[tuple[Sample, Handle]]) -> Asked:
    for question, handle in handles:
        asked.answers.append(Answered(asked.example, question, tuple(handle.wait().annotations)))
    return asked
