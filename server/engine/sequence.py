"""One request in the engine, from `submit` to its result."""

import time
from collections.abc import Callable
from typing import Literal

from prompts.annotations import Annotation
from prompts.parsing import AnswerParser
from server.engine.adapters.registry import Adapter
from server.engine.calibration import apply_scale
from server.engine.checkpoints.loading import Checkpoint
from server.engine.decoding.constraint import CompiledConstraint, State
from server.engine.decoding.search import Candidate, create_search
from server.engine.errors import InvalidRequestError, ModelOverflowError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request, Result, Timing

MAX_BEAMS = 8
Outcome = Literal["finished", "failed", "cancelled"]


class Sequence:
    """A checked request, the state of its search, and the parser of its answer.

    It waits in the `Scheduler`, then runs in an `EngineLoop`, and ends exactly once: by `finish`, `abort` or `fail`.

    `image`: the prepared image; `image_key`: the key of its features in the feature cache.
    `prompt`: the token ids for the encoder; `encoder_tokens`: length of the encoder's input, image included.
    `adapter_key`, `vision_adapter_key`: key of the adapter in the layers of the model, and in those of the vision
    encoder; None without one.
    `constraint_states`: one state per beam, empty without a constraint.
    `error`: why it failed or is about to fail; None otherwise.
    `run_alone`: whether it must not share a batch, since a batch with it failed.
    `submitted_at`, `started_at`, `encoded_at`, `deadline`: in seconds of `time.monotonic`.
    """

    def __init__(
        self,
        request: Request,
        checkpoint: Checkpoint,
        *,
        adapter: Adapter | None = None,
        constraint: CompiledConstraint | None = None,
        on_cancel: Callable[["Sequence"], None] = lambda sequence: None,
        on_end: Callable[["Sequence", Outcome], None] = lambda sequence, outcome: None,
    ) -> None:
        """Raises InvalidRequestError for a request that the model cannot process."""
        self.request, self.checkpoint, self.constraint = request, checkpoint, constraint
        self.prompt = _encode_prompt(request, checkpoint)
        self.max_new_tokens = _check_max_new_tokens(request, checkpoint)
        self.num_beams = _check_num_beams(request, checkpoint)
        self.encoder_tokens = checkpoint.image_tokens + len(self.prompt)
        image = request.image
        self.image = image if isinstance(image, PreparedImage) else checkpoint.preprocessor.prepare(image)
        self.adapter_key = adapter.key if adapter else None
        self.vision_adapter_key = adapter.vision_key if adapter else None
        self.image_key = self.image.key + (self.vision_adapter_key or "").encode()
        calibration = adapter.calibration if adapter else checkpoint.calibration
        self._scale = calibration.get_scale(request.task) if calibration else None
        self._on_end = on_end
        self.client, self.interactive = request.client, request.interactive
        self.handle = Handle(lambda: on_cancel(self))
        self.submitted_at = self.started_at = self.encoded_at = time.monotonic()
        self.deadline = None if request.timeout is None else self.submitted_at + request.timeout
        self.run_alone = False
        self.restart()

    @property
    def cancelled(self) -> bool:
        return self.handle.cancelled

    def restart(self) -> None:
        """Resets the search to before the first token. Annotations that were streamed are not streamed again."""
        self.error: BaseException | None = None
        self.search = create_search(self.checkpoint.generation, self.num_beams, self.max_new_tokens)
        self.constraint_states: list[State] = [self.constraint.start] * self.num_beams if self.constraint else []
        self.parser = AnswerParser(self.request.task, self.image.size)
        self.annotations: list[Annotation] = []
        self._parsed = 0  # number of settled tokens that the parser has processed

    def advance(self, candidates: list[Candidate]) -> list[int]:
        """Takes one step of the search. Returns the parent of each beam. Without candidates, since their scores are
        NaN, the next `process_output` raises `error`."""
        if not candidates:
            self.error = self._describe_overflow()
            return list(range(self.num_beams))
        parents = self.search.advance(candidates)
        if self.constraint:
            steps = zip(parents, self.search.last_tokens, strict=True)
            self.constraint_states = [
                self.constraint.advance(self.constraint_states[parent], token) for parent, token in steps
            ]
        return parents

    def process_output(self) -> bool:
        """Parses the tokens that have settled and streams new annotations. Returns whether the answer is complete.

        Raises ModelOverflowError.
        """
        if self.error is not None:
            raise self.error
        settled, done = self.search.settled, self.search.done
        if self._parsed == len(settled) and not done:
            return False
        for generated in settled[self._parsed :]:
            closed = self.parser.feed(self.checkpoint.vocabulary[generated.token], generated.certainty)
            self.annotations += apply_scale(closed, self._scale)
            self._parsed += 1
        if done:
            self.annotations += apply_scale(self.parser.finish(), self._scale)
        self.handle.publish(self.annotations, [generated.token for generated in settled])
        return done

    def finish(self) -> None:
        """Ends the request with its result."""
        if self.handle.set_result(self.create_result()):
            self._on_end(self, "finished")

    def abort(self) -> None:
        """Ends a cancelled request."""
        if self.handle.set_exception(RequestCancelledError("the request was cancelled before it finished")):
            self._on_end(self, "cancelled")

    def fail(self, error: BaseException) -> None:
        """Ends the request with an error."""
        self.error = error
        if self.handle.set_exception(error):
            self._on_end(self, "failed")

    def _describe_overflow(self) -> ModelOverflowError:
        what = "the logits are not a number (NaN) for this prompt"
        if self.request.adapter is not None:
            return ModelOverflowError(
                f"the adapter {self.request.adapter} overflows: {what}; train it with a lower learning rate or alpha"
            )
        return ModelOverflowError(f"{what}: the weights are broken, or the dtype is too narrow; serve in float32")

    def create_result(self) -> Result:
        """Returns the result of a complete answer."""
        settled, now = self.search.settled, time.monotonic()
        config = self.checkpoint.generation
        # An end token that was forced at the limit is not the model's own.
        stopped = len(settled) < self.max_new_tokens or (
            settled[-1].token == config.eos_token_id and config.forced_eos_token_id is None
        )
        return Result(
            annotations=self.annotations,
            text=self.parser.text,
            tokens=[generated.token for generated in settled],
            logprobs=[generated.logprob for generated in settled],
            finish="stop" if stopped else "length",
            dropped=self.parser.dropped,
            timing=Timing(
                queue_ms=1e3 * (self.started_at - self.submitted_at),
                encode_ms=1e3 * (self.encoded_at - self.started_at),
                decode_ms=1e3 * (now - self.encoded_at),
            ),
        )


def _encode_prompt(request: Request, checkpoint: Checkpoint) -> list[int]:
    """Returns the token ids of the prompt. Raises InvalidRequestError."""
    if min(request.image.size) < 1:
        raise InvalidRequestError("the image has no pixels", "image")
    try:
        text = request.task.build_prompt(request.text, request.region, request.image.size)
    except ValueError as error:
        raise InvalidRequestError(str(error), getattr(error, "field", "task")) from error
    prompt = checkpoint.tokenizer.encode_prompt(text)
    limit = checkpoint.max_prompt_tokens
    if len(prompt) > limit:
        raise InvalidRequestError(f"the text is {len(prompt) - limit} tokens too long; the limit is {limit}", "text")
    return prompt


def _check_max_new_tokens(request: Request, checkpoint: Checkpoint) -> int:
    """Returns the limit on new tokens. Raises InvalidRequestError."""
    limit = checkpoint.generation.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
    if limit is None or not 1 <= limit <= checkpoint.max_new_tokens:
        raise InvalidRequestError(
            f"max_new_tokens must be 1 to {checkpoint.max_new_tokens}, not {limit}", "max_new_tokens"
        )
    return limit


def _check_num_beams(request: Request, checkpoint: Checkpoint) -> int:
    """Returns the number of beams. Raises InvalidRequestError."""
    num_beams = checkpoint.generation.num_beams if request.num_beams is None else request.num_beams
    if not 1 <= num_beams <= MAX_BEAMS:
        raise InvalidRequestError(f"num_beams must be 1 to {MAX_BEAMS}, not {num_beams}", "num_beams")
    return num_beams
