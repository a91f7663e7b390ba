"""Routes of jobs: start, watch and control them."""

import logging
import re
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from sse_starlette import EventSourceResponse

from server.api.auth import KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, JobQueueDep, LifecycleDep, RequestStackDep
from server.api.jobs.access import JobCallsDep, describe_job, summarize_job
from server.api.jobs.examples import create_job_examples
from server.api.jobs.schemas import (
    ExtendedJobResponse,
    JobListResponse,
    JobRequest,
    JobResponse,
    JobSummaryResponse,
    create_extended_response,
)
from server.api.pages import create_page_response
from server.api.parameters import AfterQuery, JobId, LimitQuery
from server.api.problems import (
    BASE_MISMATCH,
    BODY_PROBLEMS,
    INVALID_RECIPE,
    INVALID_REQUEST,
    INVALID_SOURCE,
    INVALID_STATE,
    JOBS_DISABLED,
    NOT_FOUND,
    NOT_READY,
    OUTPUT_TAKEN,
    SOURCE_NOT_ALLOWED,
    STORE_PROBLEMS,
    UNAUTHORIZED,
    document_problems,
)
from server.api.progress_events import document_progress_events, generate_progress_events
from server.api.threads import ThreadCalls
from server.jobs.recipes import parsing
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.recipe import Recipe

if TYPE_CHECKING:
    from server.jobs.queue import JobQueue
    from server.store.jobs.records import Job

_RECIPE_NAME = re.compile(r"[\w.-]{1,64}")
_COMMON = (UNAUTHORIZED, JOBS_DISABLED, INVALID_REQUEST, *NOT_READY, *STORE_PROBLEMS)
router = APIRouter(tags=["jobs"], dependencies=[KeyRequired], responses=document_problems(*_COMMON))
logger = logging.getLogger(__name__)


@router.post(
    "/v1/jobs",
    summary="Start a job",
    status_code=201,
    openapi_extra=document_json_body(JobRequest, create_job_examples()),
    responses={
        200: {"description": "A job with the same request and output exists. It is returned.", "model": JobResponse},
        201: {"description": "The job waits in the queue."},
        **document_problems(
            *BODY_PROBLEMS,
            JOBS_DISABLED,
            SOURCE_NOT_ALLOWED,
            OUTPUT_TAKEN,
            BASE_MISMATCH,
            INVALID_RECIPE,
            INVALID_SOURCE,
        ),
    },
)
async def start_job(
    response: Response,
    calls: JobCallsDep,
    lifecycle: LifecycleDep,
    queue: JobQueueDep,
    _engine: EngineDep,
    body: Annotated[JobRequest, Depends(JsonBody(JobRequest, '{"source": "/data/images", "recipe": "detect"}'))],
) -> JobResponse:
    """Starts to label images by a recipe.

    Jobs run one at a time, in order of arrival. They yield to interactive prompts, and continue after a restart.
    """
    output = body.output or f"job-{secrets.token_hex(6)}"
    await calls.write(queue.store.database.check_writable)  # listing the source may take minutes
    job, is_new = await calls.run(
        lambda: queue.add_job(body.source, _read_recipe(body.recipe), output), lifecycle.source_limiter
    )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if is_new:
        logger.info("queued job %d", job.id)
    return await calls.read(lambda: describe_job(queue, job))


@router.get("/v1/jobs", summary="List the jobs", response_model=JobListResponse)
async def list_jobs(
    calls: JobCallsDep, queue: JobQueueDep, after: AfterQuery = None, limit: LimitQuery = 100
) -> Response:
    """Returns all jobs without their recipes, oldest first, in pages."""
    return await create_page_response(
        calls,
        "jobs",
        lambda: queue.plan_jobs(after or 0, limit),
        lambda ids: (summarize_job(queue, job) for job in queue.list_jobs(ids)),
    )


@router.get("/v1/jobs/{id}", summary="Get a job", responses=document_problems(NOT_FOUND))
async def get_job(calls: JobCallsDep, queue: JobQueueDep, job_id: JobId) -> JobResponse:
    """Returns a job: its state, progress, rate, remaining time and failures."""
    return await calls.read(lambda: describe_job(queue, queue.get_job(job_id)))


@router.get(
    "/v1/jobs/{id}/events",
    summary="Watch a job",
    response_class=EventSourceResponse,
    responses={200: document_progress_events("job"), **document_problems(NOT_FOUND)},
)
async def watch_job(
    lifecycle: LifecycleDep, calls: JobCallsDep, queue: JobQueueDep, _stack: RequestStackDep, job_id: JobId
) -> EventSourceResponse:
    """Streams the progress of a job, without its recipe, as server-sent events until it is done, failed or
    cancelled."""

    async def poll() -> JobSummaryResponse:
        return await calls.read(lambda: summarize_job(queue, queue.get_job(job_id)))

    return EventSourceResponse(generate_progress_events(await poll(), poll, lambda: lifecycle.draining))


@router.post("/v1/jobs/{id}/pause", summary="Pause a job", responses=document_problems(NOT_FOUND, INVALID_STATE))
async def pause_job(calls: JobCallsDep, queue: JobQueueDep, _: EngineDep, job_id: JobId) -> JobResponse:
    """Stops a job as soon as the images that are being labeled are done."""
    return await _change_job(calls, queue, job_id, queue.store.pause)


@router.post("/v1/jobs/{id}/resume", summary="Resume a job", responses=document_problems(NOT_FOUND, INVALID_STATE))
async def resume_job(calls: JobCallsDep, queue: JobQueueDep, _: EngineDep, job_id: JobId) -> JobResponse:
    """Queues a paused or failed job again. It continues where it stopped."""
    return await _change_job(calls, queue, job_id, queue.resume)


@router.post(
    "/v1/jobs/{id}/extend",
    summary="Extend a job",
    responses=document_problems(NOT_FOUND, INVALID_STATE, INVALID_SOURCE, INVALID_RECIPE, BASE_MISMATCH),
)
async def extend_job(
    calls: JobCallsDep, lifecycle: LifecycleDep, queue: JobQueueDep, _: EngineDep, job_id: JobId
) -> ExtendedJobResponse:
    """Labels the images that were added to the source of a job since it started, and those whose files have changed.

    Labels of all others stay. A job that is done or failed is queued again; images are never labeled twice."""
    await calls.write(queue.store.database.check_writable)  # listing the source may take minutes
    job, changes = await calls.run(lambda: queue.extend(queue.get_job(job_id)), lifecycle.source_limiter)
    return create_extended_response(await calls.read(lambda: describe_job(queue, job)), changes)


@router.post("/v1/jobs/{id}/cancel", summary="Cancel a job", responses=document_problems(NOT_FOUND, INVALID_STATE))
async def cancel_job(calls: JobCallsDep, queue: JobQueueDep, _: EngineDep, job_id: JobId) -> JobResponse:
    """Ends a job permanently. Its results stay."""
    return await _change_job(calls, queue, job_id, queue.store.cancel)


@router.post(
    "/v1/jobs/{id}/retry", summary="Retry failed images", responses=document_problems(NOT_FOUND, INVALID_STATE)
)
async def retry_job(
    calls: JobCallsDep,
    queue: JobQueueDep,
    _: EngineDep,
    job_id: JobId,
    kind: Annotated[str | None, Query(max_length=32, description="Only failures of this kind.")] = None,
) -> JobResponse:
    """Labels the failed images again. A job that is done is queued again."""
    return await _change_job(calls, queue, job_id, lambda job: queue.retry_failed(job, kind))


def _read_recipe(recipe: str | dict[str, Any]) -> Recipe:
    """Returns the recipe of a request: an object, the name of a built-in recipe, or YAML. Reads no other files.

    Raises RecipeError.
    """
    if isinstance(recipe, dict):
        return parsing.validate_recipe(recipe)
    if not _RECIPE_NAME.fullmatch(recipe):
        return parsing.parse_recipe(recipe)
    if recipe in (ready := parsing.list_builtin_recipes()):
        return parsing.load_recipe(recipe)
    message = f"there is no built-in recipe {recipe!r}; there are {', '.join(ready)}. Or send a recipe in YAML"
    raise RecipeError("recipe", [RecipeProblem(message)])


async def _change_job(
    calls: ThreadCalls, queue: "JobQueue", job_id: int, change: "Callable[[Job], object]"
) -> JobResponse:
    """Changes a job and returns it."""

    def change_and_read() -> JobResponse:
        change(queue.get_job(job_id))
        return describe_job(queue, queue.get_job(job_id))

    return await calls.write(change_and_read)
