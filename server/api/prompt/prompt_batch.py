"""The prompts of one request: submitted together, answered one by one."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Message

from prompts.annotations import Annotation
from prompts.tasks import PromptError
from server.api.metrics.metrics import Metrics
from server.api.model_names import get_public_name
from server.api.problems import (
    ADAPTER_SUSPENDED,
    INTERNAL_ERROR,
    INVALID_PROMPT,
    SHUTTING_DOWN,
    TIMED_OUT,
    ProblemError,
    create_retry_problem,
)
from server.api.prompt.admission import create_overload_problem
from server.api.prompt.prompt_submission import AcceptedPrompt, PromptSubmission
from server.api.prompt.schemas import (
    Prompt,
    PromptResponse,
    count_characters,
    create_prompt_response,
    has_min_score,
)
from server.engine.adapters.errors import AdapterSuspendedError
from server.engine.errors import (
    EngineClosedError,
    InvalidRequestError,
    ModelOverflowError,
    OverloadedError,
    RequestCancelledError,
)
from server.lifecycle import Lifecycle

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.engine.model.preprocessing import PreparedImage

logger = logging.getLogger(__name__)


class PromptBatch:
    """Submits the prompts of a request. Each entry is an accepted prompt, or the problem of one that was refused."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        image: "PreparedImage",
        engine: "Engine",
        lifecycle: Lifecycle,
        metrics: Metrics,
        client_id: str,
    ) -> None:
        """`client_id`: the engine shares its time fairly between clients. The timeout of the settings starts now."""
        self._prompts, self._image, self._engine, self._metrics = list(prompts), image, engine, metrics
        self._timeout, self._max_length = lifecycle.settings.request_timeout, lifecycle.settings.max_text_length
        self._deadline = asyncio.get_running_loop().time() + self._timeout
        self._submission = PromptSubmission(image, engine, lifecycle, client_id, self._deadline)
        self._entries: list[AcceptedPrompt | ProblemError] = []

    async def submit(self) -> None:
        """Submits all prompts. Raises ProblemError, and cancels all prompts, if the queue is full."""
        try:
            for prompt in self._prompts:
                self._entries.append(await self._submit(prompt))
        except OverloadedError as error:
            self.cancel()
            raise create_overload_problem(error) from error
        except EngineClosedError as error:
            self.cancel()
            raise create_retry_problem(SHUTTING_DOWN, "the server takes no new prompts; retry soon", 5) from error

    def __len__(self) -> int:
        return len(self._entries)

    def raise_first_problem(self) -> None:
        """Raises the problem of the first prompt, if it has one."""
        if isinstance(self._entries[0], ProblemError):
            raise self._entries[0]

    async def wait_for_all(
        self, receive: Callable[[], Awaitable[Message]]
    ) -> list[PromptResponse | ProblemError] | None:
        """Returns the answers to all prompts, or None if the client disconnects first. `receive`: of the ASGI
        request."""
        answers = asyncio.ensure_future(asyncio.gather(*map(self.wait_for, range(len(self)))))
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            futures: set[asyncio.Future[Any]] = {answers, disconnect}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            return list(answers.result()) if answers.done() else None
        finally:
            self.cancel()
            answers.cancel()
            disconnect.cancel()
            await asyncio.gather(answers, disconnect, return_exceptions=True)

    async def wait_for(self, index: int) -> PromptResponse | ProblemError:
        """Returns the answer to one prompt, or its problem. Raises only if it is cancelled itself."""
        entry, prompt = self._entries[index], self._prompts[index]
        if isinstance(entry, ProblemError):
            return entry
        try:
            async with asyncio.timeout_at(self._deadline):
                result = await entry.handle.result()
        except asyncio.CancelledError:
            self._metrics.observe_prompt(prompt.task, "cancelled")
            raise
        except Exception as error:
            entry.handle.cancel()
            outcome, problem = self._create_problem(error)
            self._metrics.observe_prompt(prompt.task, outcome)
            return problem
        self._metrics.observe_prompt(prompt.task, "answered", result)
        name = get_public_name(self._engine.checkpoint.name)
        return create_prompt_response(name, prompt, entry, self._image.size, result)

    async def stream_annotations(self, index: int) -> AsyncIterator[Annotation]:
        """Yields the annotations of one prompt as soon as they are complete. Stops on an error: `wait_for` returns
        it."""
        entry = self._entries[index]
        if isinstance(entry, ProblemError):
            return
        try:
            async for annotation in entry.handle.stream():
                if has_min_score(self._prompts[index], annotation):
                    yield annotation
        except Exception:
            return

    def cancel(self) -> None:
        """Cancels all prompts that are not done."""
        for entry in self._entries:
            if not isinstance(entry, ProblemError) and not entry.handle.done():
                entry.handle.cancel()

    async def _submit(self, prompt: Prompt) -> AcceptedPrompt | ProblemError:
        if (length := count_characters(prompt.text)) > self._max_length:
            self._metrics.observe_prompt(prompt.task, "invalid")
            detail = f"text has {length:,} characters; the limit is {self._max_length:,}"
            return ProblemError(INVALID_PROMPT, detail, "text")
        try:
            return await self._submission.submit(prompt)
        except ProblemError as problem:
            self._metrics.observe_prompt(prompt.task, "invalid")
            return problem
        except (PromptError, InvalidRequestError) as error:
            self._metrics.observe_prompt(prompt.task, "invalid")
            return ProblemError(INVALID_PROMPT, str(error), error.field)
        except (AdapterSuspendedError, TimeoutError) as error:
            outcome, refusal = self._create_problem(error)
            self._metrics.observe_prompt(prompt.task, outcome)
            return refusal
        except OverloadedError:
            self._metrics.observe_prompt(prompt.task, "overloaded")
            raise

    def _create_problem(self, error: Exception) -> tuple[str, ProblemError]:
        """Returns the outcome of a failed prompt for the metrics, and its problem."""
        match error:
            case TimeoutError():
                detail = f"no answer within {self._timeout:g} s; send fewer prompts or a lower max_new_tokens"
                return "timed_out", ProblemError(TIMED_OUT, detail)
            case EngineClosedError() | RequestCancelledError():
                detail = "the server stopped before the answer was complete; retry soon"
                return "cancelled", create_retry_problem(SHUTTING_DOWN, detail, 5)
            case AdapterSuspendedError():
                return "failed", create_retry_problem(ADAPTER_SUSPENDED, str(error), error.retry_after)
            case ModelOverflowError():
                logger.warning("a prompt failed: %s", error)
                return "failed", ProblemError(INVALID_PROMPT, str(error))
        logger.error("a prompt failed", exc_info=error)
        detail = "the model failed on this prompt; give the request_id to the operator of the server"
        return "failed", ProblemError(INTERNAL_ERROR, detail)


async def _wait_for_disconnect(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
