"""One request under way: its prompt, its search, and the reader of its answer."""

import time
from dataclasses import dataclass

from prompts.annotations import Annotation
from prompts.grammar import AnswerParser
from server.engine.beams import Search, search
from server.engine.checkpoint import Checkpoint
from server.engine.handle import Handle
from server.engine.request import InvalidRequest, Request, Result, Timing

MAX_BEAMS = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """A request, checked: the encoder's ids and the limits in force."""

    request: Request
    prompt: list[int]
    num_beams: int
    max_new_tokens: int


def plan(request: Request, checkpoint: Checkpoint) -> Plan:
    """Checks a request against the model. Raises InvalidRequest."""
    if min(request.image.size) < 1:
        raise InvalidRequest("the picture has no pixels", "image")
    try:
        words = request.task.prompt(request.text, request.region, request.image.size)
    except ValueError as error:
        raise InvalidRequest(str(error), getattr(error, "field", "task")) from error
    prompt = checkpoint.tokenizer.prompt(words)
    if (spare := checkpoint.max_prompt_tokens - len(prompt)) < 0:
        raise InvalidRequest(
            f"the text is {-spare} tokens too long; the model reads {checkpoint.max_prompt_tokens}", "text"
        )
    limit = request.max_new_tokens
    limit = checkpoint.generation.max_new_tokens if limit is None else limit
    if limit is None or not 1 <= limit <= checkpoint.max_new_tokens:
        raise InvalidRequest(f"max_new_tokens must be 1 to {checkpoint.max_new_tokens}, not {limit}", "max_new_tokens")
    beams = checkpoint.generation.num_beams if request.num_beams is None else request.num_beams
    if not 1 <= beams <= MAX_BEAMS:
        raise InvalidRequest(f"num_beams must be 1 to {MAX_BEAMS}, not {beams}", "num_beams")
    return Plan(request, prompt, beams, limit)


class Sequence:
    """A planned request on its way through the engine."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint, handle: Handle) -> None:
        self.plan, self.checkpoint, self.handle = plan, checkpoint, handle
        self.submitted = self.started = self.encoded = time.monotonic()
        self.restart()

    def restart(self) -> None:
        """Back to before the first token; what was streamed already is not streamed again."""
        self.search: Search = search(self.checkpoint.generation, self.plan.num_beams, self.plan.max_new_tokens)
        self.parser = AnswerParser(self.plan.request.task, self.plan.request.image.size)
        self.annotations: list[Annotation] = []
        self._read = 0

    def read(self) -> None:
        """Parses the tokens that have settled and streams what they closed."""
        for said in self.search.settled[self._read :]:
            self.annotations += self.parser.feed(self.checkpoint.vocabulary[said.token], said.certainty)
            self._read += 1
        if self.search.done:
            self.annotations += self.parser.finish()
        self.handle._stream(self.annotations, self.search.settled)

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
