"""Calls of the job queue from routes: in a thread, with errors as problems."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio

from server.api.jobs.errors import translate_job_errors
from server.api.jobs.schemas import JobResponse, create_job_response

if TYPE_CHECKING:
    from server.jobs.queue import JobQueue
    from server.store.jobs.records import Job

T = TypeVar("T")


async def run_in_thread(call: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """Returns what the call returns. Raises ProblemError."""
    with translate_job_errors():
        return await anyio.to_thread.run_sync(call, limiter=limiter)


def describe_job(queue: "JobQueue", job: "Job") -> JobResponse:
    """Returns the response for a job, with its progress. Reads the database."""
    return create_job_response(job, queue.store.get_progress(job), queue.compute_rate(job))
