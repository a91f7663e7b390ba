"""The progress of a job or a fine-tune run as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from sse_starlette import ServerSentEvent

from server.api.problems import DATABASE_UNAVAILABLE, ProblemError

_FINAL_STATES = ("done", "no-gain", "failed", "cancelled")
_INTERVAL = 0.5  # seconds between two polls
_MAX_SHARE = 10  # waits so many times as long as the last poll took, so that watching does not keep the database busy


class Progress(Protocol):
    """A response with a state: of a job or a run."""

    @property
    def state(self) -> str: ...

    def model_dump_json(self) -> str: ...


async def generate_progress_events(
    progress: Progress, poll: Callable[[], Awaitable[Progress]], is_draining: Callable[[], bool]
) -> AsyncIterator[ServerSentEvent]:
    """Yields `progress` at once and after every change, and `end` when the job or run has ended.

    Yields `error` with problem details, and stops, if the progress cannot be read anymore. Also stops when the server
    shuts down; the job or run continues after the restart.
    """
    yield _create_event("progress", progress)
    while progress.state not in _FINAL_STATES:
        started, previous = time.monotonic(), progress
        try:
            progress = await poll()
        except ProblemError as problem:
            if problem.kind is not DATABASE_UNAVAILABLE:
                yield ServerSentEvent(problem.to_details().model_dump_json(exclude_none=True), event="error")
                return
        if progress != previous:
            yield _create_event("progress", progress)
        next_poll = time.monotonic() + max(_INTERVAL, _MAX_SHARE * (time.monotonic() - started))
        while progress.state not in _FINAL_STATES and time.monotonic() < next_poll:
            if is_draining():
                return
            await asyncio.sleep(_INTERVAL)
    yield _create_event("end", progress)


def document_progress_events(what: str) -> dict[str, Any]:
    """Returns the description of such a stream in the OpenAPI document. `what`: job or run."""
    return {
        "description": f"`progress` with the {what} after every change, `end` with it when it has ended, `error` with "
        "problem details.",
        "content": {"text/event-stream": {"itemSchema": document_event("progress", "end", "error")}},
    }


def document_event(*names: str) -> dict[str, Any]:
    """Returns the schema of server-sent events with these names, as OpenAPI 3.2 defines it. Readers of 3.1 ignore
    it."""
    return {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": list(names)},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
        "required": ["event", "data"],
    }


def _create_event(name: str, progress: Progress) -> ServerSentEvent:
    return ServerSentEvent(progress.model_dump_json(), event=name)
