"""How far a job is, or a fine-tune, as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Protocol

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from server.api.problems import DATABASE_AWAY, Problem

_ENDED = ("done", "failed", "cancelled")
_EVERY = 0.5  # seconds
_SHARE = 10  # of a count that takes long, so that those who watch never keep the database busy
EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "event": {"type": "string", "enum": ["progress", "end", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}


class Row(Protocol):
    """What is told: a model whose state says whether it has ended."""

    @property
    def state(self) -> str: ...

    def model_dump_json(self) -> str: ...


class JobEvents(EventSourceResponse):
    """`progress` at once and whenever it changes, `end` when the job has ended, `error` with a problem where it cannot
    be told any more. `over`: whether the server stops; then the stream ends, and the job does not. `until` is closed
    when the stream is over, however it ends."""

    def __init__(
        self, first: Row, look: Callable[[], Awaitable[Row]], over: Callable[[], bool], until: ExitStack
    ) -> None:
        super().__init__(_events(first, look, over))
        self.until = until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.until:
            await super().__call__(scope, receive, send)


async def _events(
    row: Row, look: Callable[[], Awaitable[Row]], over: Callable[[], bool]
) -> AsyncIterator[ServerSentEvent]:
    yield _event("progress", row)
    while row.state not in _ENDED:
        began, before = time.monotonic(), row
        try:
            row = await look()
        except Problem as problem:
            if problem.kind is not DATABASE_AWAY:
                yield ServerSentEvent(problem.details().model_dump_json(exclude_none=True), event="error")
                return
        if row != before:
            yield _event("progress", row)
        rests = time.monotonic() + max(_EVERY, _SHARE * (time.monotonic() - began))
        while row.state not in _ENDED and time.monotonic() < rests:
            if over():
                return
            await asyncio.sleep(_EVERY)
    yield _event("end", row)


def _event(name: str, row: Row) -> ServerSentEvent:
    return ServerSentEvent(row.model_dump_json(), event=name)
