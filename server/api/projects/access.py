"""What all routes of projects share: common problems, and calls in threads with errors as problems."""

from typing import Annotated

from fastapi import Depends

from server.api.deps import LifecycleDep
from server.api.problems import (
    INVALID_REQUEST,
    NOT_READY,
    PROJECTS_DISABLED,
    STORE_PROBLEMS,
    UNAUTHORIZED,
    document_problems,
)
from server.api.projects.errors import translate_project_errors
from server.api.threads import ThreadCalls

PROJECT_RESPONSES = document_problems(UNAUTHORIZED, PROJECTS_DISABLED, INVALID_REQUEST, *NOT_READY, *STORE_PROBLEMS)


async def get_calls(lifecycle: LifecycleDep) -> ThreadCalls:
    """Returns the calls in threads, with the errors of projects as problems."""
    return ThreadCalls(lifecycle, translate_project_errors)


ProjectCallsDep = Annotated[ThreadCalls, Depends(get_calls)]
