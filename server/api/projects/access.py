"""What all routes of projects share: common problems, and calls in a thread with errors as problems."""

from collections.abc import Callable
from typing import TypeVar

import anyio

from server.api.problems import (
    INVALID_REQUEST,
    NOT_READY,
    PROJECTS_DISABLED,
    STORE_PROBLEMS,
    UNAUTHORIZED,
    document_problems,
)
from server.api.projects.errors import translate_project_errors

PROJECT_RESPONSES = document_problems(UNAUTHORIZED, PROJECTS_DISABLED, INVALID_REQUEST, *NOT_READY, *STORE_PROBLEMS)
T = TypeVar("T")


async def run_in_thread(call: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """Returns what the call returns. Raises ProblemError."""
    with translate_project_errors():
        return await anyio.to_thread.run_sync(call, limiter=limiter)
