"""Answers as server-sent events: each annotation the moment it closes, then the whole."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack

from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from server.api.problems import Problem
from server.api.questions import Questions
from server.api.schemas import Answer, Answers


class AnswerStream(EventSourceResponse):
    """Events of `questions`. `until` is closed when the stream is over, however it ends."""

    def __init__(self, questions: Questions, *, several: bool, until: ExitStack) -> None:
        super().__init__(_events(questions, several))
        self.questions, self.until = questions, until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: one that a client left before its first event never runs.
        with self.until:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self.questions.cancel()


async def _events(questions: Questions, several: bool) -> AsyncIterator[ServerSentEvent]:
    """`annotation` with its prompt's index where there are several, `error` for a prompt that failed, and `result` at
    the end; one question alone that failed has no result."""
    ready: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()
    entries: list[Answer | Problem | None] = [None] * len(questions.places)

    async def follow(index: int) -> None:
        place = {"index": index} if several else {}
        async with asyncio.TaskGroup() as group:
            whole = group.create_task(questions.answer(index))
            async for annotation in questions.annotations(index):
                ready.put_nowait(_event("annotation", annotation, place))
        entry = entries[index] = whole.result()
        if isinstance(entry, Problem):
            ready.put_nowait(_event("error", entry.details(), place))

    async def follow_all() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(entries)):
                    group.create_task(follow(index))
        finally:
            ready.put_nowait(None)

    following = asyncio.create_task(follow_all())
    try:
        while (event := await ready.get()) is not None:
            yield event
        await following
        if several:
            yield _event(
                "result", Answers(results=[e.details() if isinstance(e, Problem) else e for e in entries if e])
            )
        elif isinstance(entries[0], Answer):
            yield _event("result", entries[0])
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _event(name: str, data: BaseModel, place: dict[str, int] | None = None) -> ServerSentEvent:
    body = data.model_dump_json() if not place else _with(data, place)
    return ServerSentEvent(body, event=name)


def _with(data: BaseModel, place: dict[str, int]) -> str:
    """The place's index first, then the data's own fields."""
    return '{"index":' + str(place["index"]) + "," + data.model_dump_json()[1:]
