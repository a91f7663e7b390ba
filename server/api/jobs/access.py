"""Calls of the job queue from routes: in threads, with errors as problems."""

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends

from server.api.deps import LifecycleDep
from server.api.jobs.errors import translate_job_errors
from server.api.jobs.schemas import JobResponse, JobSummaryResponse, create_job_response, create_job_summary
from server.api.threads import ThreadCalls

if TYPE_CHECKING:
    from server.jobs.queue import JobQueue
    from server.store.jobs.records import Job


async def get_calls(lifecycle: LifecycleDep) -> ThreadCalls:
    """Returns the calls in threads, with the errors of jobs as problems."""
    return ThreadCalls(lifecycle, translate_job_errors)


JobCallsDep = Annotated[ThreadCalls, Depends(get_calls)]


def summarize_job(queue: "JobQueue", job: "Job") -> JobSummaryResponse:
    """Returns the entry of a list for a job, with its progress. Reads the database."""
    return create_job_summary(job, queue.store.get_progress(job), queue.compute_rate(job))


def describe_job(queue: "JobQueue", job: "Job") -> JobResponse:
    """Returns the response for a job, with its progress. Reads the database."""
    return create_job_response(job, queue.store.get_progress(job), queue.compute_rate(job), queue.list_warnings(job))
