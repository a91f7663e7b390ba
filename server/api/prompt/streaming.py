"""Answers as server-sent events: each annotation as soon as it is complete, then the whole answer."""

import asyncio
from collections.abc import AsyncIterator

from pydantic import BaseModel
from sse_starlette import ServerSentEvent

from server.api.problems import ProblemError
from server.api.prompt.prompt_batch import PromptBatch
from server.api.prompt.schemas import PromptBatchResponse, PromptResponse


async def generate_prompt_events(batch: PromptBatch, *, several: bool) -> AsyncIterator[ServerSentEvent]:
    """Yields `annotation` for each annotation, `error` for a prompt that failed, and `result` at the end.

    With several prompts, `annotation` and `error` contain the `index` of their prompt. A single prompt that failed has
    no `result`.
    """
    events: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()
    answers: list[PromptResponse | ProblemError | None] = [None] * len(batch)

    async def follow(index: int) -> None:
        number = index if several else None
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(batch.wait_for(index))
            async for annotation in batch.stream_annotations(index):
                events.put_nowait(_create_event("annotation", annotation, number))
        answer = answers[index] = waiting.result()
        if isinstance(answer, ProblemError):
            events.put_nowait(_create_event("error", answer.to_details(), number))

    async def follow_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(answers)):
                    group.create_task(follow(index))
        finally:
            events.put_nowait(None)

    following = asyncio.create_task(follow_all())
    try:
        while (event := await events.get()) is not None:
            yield event
        await following
        if several:
            yield _create_event("result", create_batch_response([answer for answer in answers if answer is not None]))
        elif isinstance(answers[0], PromptResponse):
            yield _create_event("result", answers[0])
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def create_batch_response(answers: list[PromptResponse | ProblemError]) -> PromptBatchResponse:
    """Returns the response to several prompts."""
    results = [answer.to_details() if isinstance(answer, ProblemError) else answer for answer in answers]
    return PromptBatchResponse(results=results)


def _create_event(name: str, data: BaseModel, index: int | None = None) -> ServerSentEvent:
    body = data.model_dump_json()
    if index is not None:
        body = f'{{"index":{index},' + body[1:]
    return ServerSentEvent(body, event=name)
