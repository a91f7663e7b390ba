"""One request under way: its prompt, its search, and the reader of its answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from prompts.annotations import Annotation
from prompts.parsing import AnswerParser
from server.engine.calibration import Isotonic, Temperature, scaled
from server.engine.checkpoints.loading import Checkpoint
from server.engine.decoding.constraint import Automaton
from server.engine.decoding.decoder import Member
from server.engine.decoding.search import search
from server.engine.errors import InvalidRequestError
from server.engine.handle import Handle
from server.engine.model.preprocessing import Picture
from server.engine.request import Request, Result, Timing

MAX_BEAMS = 8
DRAFTED = "<CAPTION_TO_PHRASE_GROUNDING>"  # the task whose answers repeat phrases of its prompt


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, checked: the picture made ready, the encoder's ids and the limits in force."""

    request: Request
    picture: Picture
    prompt: list[int]
    num_beams: int
    max_new_tokens: int


def plan(request: Request, checkpoint: Checkpoint) -> Plan:
    """Checks a request against the model. Raises InvalidRequestError."""
    if min(request.image.size) < 1:
        raise InvalidRequestError("the picture has no pixels", "image")
    try:
        words = request.task.prompt(request.text, request.region, request.image.size)
    except ValueError as error:
        raise InvalidRequestError(str(error), getattr(error, "field", "task")) from error
    prompt = checkpoint.tokenizer.prompt(words)
    if (spare := checkpoint.max_prompt_tokens - len(prompt)) < 0:
        raise InvalidRequestError(
            f"the text is {-spare} tokens too long; the model reads {checkpoint.max_prompt_tokens}", "text"
        )
    limit = request.max_new_tokens
    limit = checkpoint.generation.max_new_tokens if limit is None else limit
    if limit is None or not 1 <= limit <= checkpoint.max_new_tokens:
        raise InvalidRequestError(
            f"max_new_tokens must be 1 to {checkpoint.max_new_tokens}, not {limit}", "max_new_tokens"
        )
    beams = checkpoint.generation.num_beams if request.num_beams is None else request.num_beams
    if not 1 <= beams <= MAX_BEAMS:
        raise InvalidRequestError(f"num_beams must be 1 to {MAX_BEAMS}, not {beams}", "num_beams")
    image = request.image
    picture = image if isinstance(image, Picture) else checkpoint.preprocessing.prepare(image)
    return Plan(request, picture, prompt, beams, limit)


class Sequence:
    """A planned request on its way through the engine: what the loop calls work.

    `adapter`: the key of its weights in the layers; `tower`: the same where they change the vision tower; `scale`: what
    its scores are put on. `on_end` is called with how it ended (finished, failed, cancelled), once.
    """

    def __init__(
        self, plan: Plan, checkpoint: Checkpoint, handle: Handle, *, adapter: str | None = None,
        tower: str | None = None, automaton: Automaton | None = None, drafts: int = 0,
        scale: Temperature | Isotonic | None = None,
        on_end: Callable[["Sequence", str], None] = lambda sequence, how: None,
    ) -> None:  # fmt: skip
        self.plan, self.checkpoint, self.handle = plan, checkpoint, handle
        self.adapter, self.tower, self._automaton, self._on_end = adapter, tower, automaton, on_end
        self._scale = scale
        self._drafts = drafts if plan.num_beams == 1 and plan.request.task.token == DRAFTED else 0
        self.client, self.interactive = plan.request.client, plan.request.interactive
        self.cost = checkpoint.image_tokens + len(plan.prompt)
        self.picture = plan.picture.key + (tower or "").encode()
        self.submitted = self.started = self.encoded = time.monotonic()
        self.deadline = None if plan.request.timeout is None else self.submitted + plan.request.timeout
        self.solo = False
        self.restart()

    @property
    def cancelled(self) -> bool:
        return self.handle.cancelled

    def restart(self) -> None:
        """Back to before the first token; what was streamed already is not streamed again."""
        self.search = search(self.checkpoint.generation, self.plan.num_beams, self.plan.max_new_tokens)
        self.member = Member(self.search, self.plan.prompt, self.adapter, self._automaton, self._drafts)
        self.parser = AnswerParser(self.plan.request.task, self.plan.picture.size)
        self.annotations: list[Annotation] = []
        self._read = 0

    def read(self) -> bool:
        """Parses the tokens that have settled and streams what they closed; whether the answer is whole."""
        if self._read == len(self.search.settled) and not self.search.done:
            return False
        for said in self.search.settled[self._read :]:
            closed = self.parser.feed(self.checkpoint.vocabulary[said.token], said.certainty)
            self.annotations += scaled(closed, self._scale)
            self._read += 1
        if self.search.done:
            self.annotations += scaled(self.parser.finish(), self._scale)
        self.handle._stream(self.annotations, self.search.settled)
        return self.search.done

    def finish(self) -> None:
        """Hands the answer over."""
        result = self.result()
        if self.handle._finish(result):
            self._on_end(self, "finished")

    def give_up(self) -> None:
        """Ends a cancelled request."""
        if self.handle._cancel():
            self._on_end(self, "cancelled")

    def fail(self, error: BaseException) -> None:
        if self.handle._fail(error):
            self._on_end(self, "failed")

    def result(self) -> Result:
        """The answer, once the search is done and read."""
        settled, now = self.search.settled, time.monotonic()
        config = self.checkpoint.generation
        # A forced end token at the limit is not the model's own.
        stopped = len(settled) < self.plan.max_new_tokens or (
            settled[-1].token == config.eos_token_id and config.forced_eos_token_id is None
        )
        return Result(
            annotations=self.annotations,
            text=self.parser.text,
            tokens=[said.token for said in settled],
            logprobs=[said.logprob for said in settled],
            finish="stop" if stopped else "length",
            dropped=self.parser.dropped,
            timing=Timing(
                queue_ms=1e3 * (self.started - self.submitted),
                encode_ms=1e3 * (self.encoded - self.started),
                decode_ms=1e3 * (now - self.encoded),
            ),
        )
