"""What the engine is asked and what it answers: the whole of the seam."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL.Image import Image

from prompts.annotations import Annotation
from prompts.grammar import Dropped
from prompts.tasks import Task
from server.engine.decoding.constraint import Constrain
from server.engine.vision import Picture


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt on one picture. `image` is RGB, or what `Engine.prepare` made of it, which spares the work where one
    picture is asked about several times; `region` is x1, y1, x2, y2 in its pixels.

    None for `max_new_tokens` and `num_beams` takes the checkpoint's own generation config. `adapter`: the name of one
    that is loaded. `constrain`: what the answer may be (it can change answers). `client` and `interactive` are for
    fairness: see `Scheduler`. `timeout`: seconds until it is given up, from `submit` on.
    """

    image: Image | Picture
    task: Task
    text: str | None = None
    region: Sequence[float] | None = None
    max_new_tokens: int | None = None
    num_beams: int | None = None
    adapter: str | None = None
    constrain: Constrain | None = None
    client: str = ""
    interactive: bool = True
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds spent waiting for a place, in the vision tower and encoder, and in the decoder."""

    queue_ms: float = 0.0
    encode_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return self.queue_ms + self.encode_ms + self.decode_ms


@dataclass(frozen=True, slots=True)
class Result:
    """The finished answer. `tokens` are the generated ids after the decoder's start token, end token included;
    `logprobs` are the model's own log probabilities of them, before any ban or forcing. The scores of the annotations
    come from the same pass (`decoder.certainties`, `prompts.grammar`), on the scale of the adapter's calibration where
    it has one for the task."""

    annotations: list[Annotation]
    text: str
    tokens: list[int]
    logprobs: list[float]
    finish: str  # "stop": the model ended its answer; "length": max_new_tokens ran out
    dropped: list[Dropped] = field(default_factory=list)
    timing: Timing = Timing()


class Cancelled(Exception):  # noqa: N818
    """The request was cancelled before it finished."""


class DeadlineExceeded(TimeoutError):  # noqa: N818
    """The request's own timeout ran out."""


class Overloaded(Exception):  # noqa: N818
    """Too many requests wait already; try again in `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests wait already; try again in {retry_after:.0f} s")
        self.waiting = waiting
        self.retry_after = retry_after


class InvalidRequest(ValueError):  # noqa: N818
    """A request the model cannot take; `field` names the part at fault, as in `Request`."""

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Closed(Exception):  # noqa: N818
    """The engine is shutting down and takes no more requests."""
