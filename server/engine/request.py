"""The requests and results of the engine. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from PIL.Image import Image

from prompts.annotations import Annotation
from prompts.parsing import DroppedFragment
from prompts.tasks import Task

if TYPE_CHECKING:
    from server.engine.decoding.constraint import CompiledConstraint
    from server.engine.model.preprocessing import PreparedImage


@dataclass(frozen=True, slots=True)
class Constraint:
    """Restricts an answer.

    `grammar`: locations come in the number and order that the answer format of the task requires.
    `labels`: the only labels that may occur; None allows any.
    """

    grammar: bool = True
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one image.

    `image`: RGB, or the output of `Engine.prepare`, which saves work when several prompts share an image.
    `region`: x1, y1, x2, y2 in pixels of the image.
    `max_new_tokens`, `num_beams`: None uses the generation config of the checkpoint.
    `adapter`: name of a loaded adapter.
    `constrain`: restricts the answer, and may change it; or the output of `Engine.compile_constraint` for this task.
    `client`, `interactive`: used for fair scheduling, see `Scheduler`.
    `timeout`: seconds from `submit` until the request fails.
    """

    image: "Image | PreparedImage"
    task: Task
    text: str | None = None
    region: Sequence[float] | None = None
    max_new_tokens: int | None = None
    num_beams: int | None = None
    adapter: str | None = None
    constrain: "Constraint | CompiledConstraint | None" = None
    client: str = ""
    interactive: bool = True
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds spent in the queue, in the vision encoder and text encoder, and in the decoder."""

    queue_ms: float = 0.0
    encode_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return self.queue_ms + self.encode_ms + self.decode_ms


@dataclass(frozen=True, slots=True)
class Result:
    """A complete answer.

    `tokens`: generated ids after the decoder start token, including the end token.
    `logprobs`: the model's log probability of each token, before n-gram bans, constraints and forced tokens.
    `finish`: "stop" when the model ended its answer, "length" when it reached `max_new_tokens`.
    `dropped`: malformed parts of the answer.
    `left_out`: annotations of classes that the answer may not have, see `server.engine.class_lists`.

    Annotation scores are computed in the same pass (see `decoding.token_selection` and `prompts.parsing`) and
    calibrated when the checkpoint or adapter has a calibration for the task.
    """

    annotations: list[Annotation]
    text: str
    tokens: list[int]
    logprobs: list[float]
    finish: str
    dropped: list[DroppedFragment] = field(default_factory=list)
    timing: Timing = Timing()
    left_out: list[Annotation] = field(default_factory=list)
