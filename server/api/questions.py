"""The questions of one request, under way: submitted together, answered or refused each on its own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from starlette.types import Message

from prompts.annotations import Annotation
from prompts.tasks import PromptError, find_task
from server.api.answering import answerer
from server.api.metrics import Metrics
from server.api.problems import FAILED, INVALID_PROMPT, OVERLOADED, SHUTTING_DOWN, TIMED_OUT, Problem, busy
from server.api.schemas import Answer, Prompt, answer, wanted
from server.engine.errors import EngineClosedError, InvalidRequestError, OverloadedError, RequestCancelledError
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request
from server.serving import Serving

if TYPE_CHECKING:
    from server.engine.engine import Engine
    from server.engine.handle import Handle
    from server.projects.ensemble_handle import EnsembleHandle

logger = logging.getLogger(__name__)


class Questions:
    """Submits all prompts; each place holds a handle, or the problem that its prompt has."""

    def __init__(
        self,
        engine: "Engine",
        image: PreparedImage,
        prompts: Sequence[Prompt],
        metrics: Metrics,
        serving: Serving,
        client: str,
    ) -> None:
        """`serving`: whose projects and settings count; `client`: who shares the engine fairly with others. The
        settings' timeout runs from now.

        Raises Problem when too many wait already: then none is asked.
        """
        settings = serving.settings
        self.client, self.serving = client, serving
        self.engine, self.size, self.prompts, self.metrics = engine, image.size, list(prompts), metrics
        self.timeout, self.max_text_length = settings.timeout, settings.max_text_length
        self.ends = asyncio.get_running_loop().time() + self.timeout
        self.places: list[Handle | EnsembleHandle | Problem] = []
        try:
            for index in range(len(self.prompts)):
                self.places.append(self._submit(image, index))
        except OverloadedError as error:
            self.cancel()
            detail = f"{error.waiting} prompts wait already; ask again in {error.retry_after:.0f} s"
            raise busy(OVERLOADED, detail, error.retry_after) from error
        except EngineClosedError as error:
            self.cancel()
            raise busy(SHUTTING_DOWN, "it takes nothing new; ask again soon", 5) from error

    def _submit(self, image: PreparedImage, index: int) -> "Handle | EnsembleHandle | Problem":
        prompt = self.prompts[index]
        if prompt.text is not None and len(prompt.text) > self.max_text_length:
            self.metrics.prompt(prompt.task, "invalid")
            detail = f"text has {len(prompt.text):,} characters; at most {self.max_text_length:,} are read"
            return Problem(INVALID_PROMPT, detail, "text")
        try:
            task = find_task(prompt.task)
            with answerer(self.serving, prompt) as panel:
                asked = Request(
                    image,
                    task,
                    prompt.text,
                    prompt.region,
                    prompt.max_new_tokens,
                    prompt.num_beams,
                    constrain=prompt.constrain.read() if prompt.constrain else None,
                    client=self.client,
                    interactive=prompt.priority != "job",
                    timeout=self.timeout,
                )
                handle = panel.submit(self.engine.submit, asked)
            self.prompts[index] = prompt.model_copy(update={"adapter": panel.name})  # the answer tells it
            return handle
        except Problem as problem:
            self.metrics.prompt(prompt.task, "invalid")
            return problem
        except (PromptError, InvalidRequestError) as error:
            self.metrics.prompt(prompt.task, "invalid")
            return Problem(INVALID_PROMPT, str(error), error.field)
        except OverloadedError:
            self.metrics.prompt(prompt.task, "overloaded")
            raise

    def raise_first(self) -> None:
        """Raises the first place's problem, where it has one."""
        if isinstance(self.places[0], Problem):
            raise self.places[0]

    async def answers(self, receive: Callable[[], Awaitable[Message]]) -> list[Answer | Problem] | None:
        """All answers; None when the client left first, which `receive` tells."""
        everything = asyncio.ensure_future(asyncio.gather(*map(self.answer, range(len(self.places)))))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            both: set[asyncio.Future[Any]] = {everything, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return list(everything.result()) if everything.done() else None
        finally:
            self.cancel()
            everything.cancel()
            gone.cancel()
            await asyncio.gather(everything, gone, return_exceptions=True)

    async def answer(self, index: int) -> Answer | Problem:
        """The answer in one place; never raises but when it is cancelled itself."""
        place, prompt = self.places[index], self.prompts[index]
        if isinstance(place, Problem):
            return place
        try:
            async with asyncio.timeout_at(self.ends):
                result = await place.result()
        except asyncio.CancelledError:
            self.metrics.prompt(prompt.task, "cancelled")
            raise
        except Exception as error:
            place.cancel()
            outcome, problem = self._blame(error)
            self.metrics.prompt(prompt.task, outcome)
            return problem
        self.metrics.prompt(prompt.task, "answered", result)
        return answer(self.engine.checkpoint.name, prompt, self.size, result)

    async def annotations(self, index: int) -> AsyncIterator[Annotation]:
        """The wanted annotations in one place, each the moment it closes. Ends early, silently, on a problem: `answer`
        has it."""
        place = self.places[index]
        if isinstance(place, Problem):
            return
        try:
            async for annotation in place.stream():
                if wanted(self.prompts[index], annotation):
                    yield annotation
        except Exception:
            return

    def cancel(self) -> None:
        """Gives up whatever is not done."""
        for place in self.places:
            if not isinstance(place, Problem) and not place.done():
                place.cancel()

    def _blame(self, error: Exception) -> tuple[str, Problem]:
        """What a failed prompt counts as, and what is answered."""
        match error:
            case TimeoutError():
                detail = f"no answer within {self.timeout:g} s; ask for fewer prompts or a lower max_new_tokens"
                return "timed_out", Problem(TIMED_OUT, detail)
            case EngineClosedError() | RequestCancelledError():
                return "cancelled", busy(SHUTTING_DOWN, "it stopped before the answer was there; ask again soon", 5)
        logger.error("a prompt failed", exc_info=error)
        return "failed", Problem(FAILED, "the model failed on this prompt; tell the operator the request_id")


async def _disconnect(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
