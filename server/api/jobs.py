"""Jobs over HTTP: begun, watched, steered, and their labels read."""

import asyncio
import logging
import re
import secrets
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError
from sse_starlette import EventSourceResponse
from starlette.types import Scope

from server.api import bodies, examples, job_files, problems
from server.api.auth import Authorised
from server.api.job_events import EVENT, JobEvents
from server.api.job_problems import STORED, told
from server.api.job_schemas import (
    LARGEST,
    Failures,
    JobList,
    JobRequest,
    JobRow,
    Number,
    Results,
    failure_row,
    job_row,
    picture_row,
)
from server.api.problems import Problem, documented
from server.jobs.queue import JobQueue
from server.jobs.recipes import parsing
from server.jobs.recipes.recipe import Recipe
from server.serving import Serving
from server.store import Job

_MOST = 1 << 20  # bytes of a request, most of them its recipe's
_NAME = re.compile(r"[\w.-]{1,64}")
_UNREADY = (problems.LOADING, problems.NO_MODEL, problems.SHUTTING_DOWN)
router = APIRouter(
    tags=["jobs"],
    dependencies=[Authorised],
    responses=documented(problems.UNAUTHORIZED, problems.NO_JOBS, problems.INVALID_REQUEST, *_UNREADY, *STORED),
)
logger = logging.getLogger(__name__)
T = TypeVar("T")

After = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next` of the page before; none for the first.")]
Limit = Annotated[int, Query(ge=1, le=1000)]
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/JobRequest"},
            "examples": examples.job_bodies(),
        }
    },
}
SCHEMAS = (JobRequest,)  # for the OpenAPI, which refers to it above


def body_limit(scope: Scope) -> int | None:
    """Bytes that a request for a job may have; None for other requests."""
    return _MOST if scope["method"] == "POST" and scope["path"].startswith("/v1/jobs") else None


@router.post(
    "/v1/jobs",
    status_code=201,
    openapi_extra={"requestBody": _BODY},
    responses={
        200: {"description": "The output's job began with the same request: it is answered.", "model": JobRow},
        201: {"description": "It waits for its turn."},
        **documented(
            problems.BAD_BODY,
            problems.NO_JOBS,
            problems.SOURCE_REFUSED,
            problems.TOO_SLOW,
            problems.JOB_CHANGED,
            problems.OTHER_BASE,
            problems.TOO_LARGE,
            problems.UNSUPPORTED_TYPE,
            problems.INVALID_REQUEST,
            problems.INVALID_RECIPE,
            problems.INVALID_SOURCE,
        ),
    },
)
async def begin(request: Request, response: Response) -> JobRow:
    """Begins to label pictures where they lie, by a recipe. Jobs run one at a time, in the order in which they came,
    give way to interactive prompts, and go on after a restart of the server."""
    serving: Serving = request.app.state.serving
    queue = serving.jobs()
    serving.engine()
    with serving.work():
        try:
            async with asyncio.timeout(serving.settings.timeout):
                fields = await bodies.json_object(request, '{"source": "/data/pictures", "recipe": "detect"}')
        except TimeoutError:
            detail = f"the body was not there within {serving.settings.timeout:g} s; send it over a faster line"
            raise Problem(problems.TOO_SLOW, detail, headers={"Connection": "close"}) from None
        try:
            asked = JobRequest.model_validate(fields)
        except ValidationError as error:
            raise problems.invalid(error.errors(include_url=False, include_context=False)) from None
        output = asked.output or f"job-{secrets.token_hex(6)}"

        def add() -> tuple[Job, bool]:
            return queue.add(asked.source, _recipe(asked.recipe), output)

        with told():
            job, new = await anyio.to_thread.run_sync(add, limiter=serving.queueing)
        response.status_code = 201 if new else 200
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        if new:
            logger.info("job %d is queued", job.id)
        return await _beside(lambda: _row(queue, job))


@router.get("/v1/jobs")
async def jobs(request: Request, after: After = None, limit: Limit = 100) -> JobList:
    """All jobs, the oldest first, page by page."""
    queue = request.app.state.serving.jobs()

    def page() -> JobList:
        found = queue.jobs(after or 0, limit + 1)
        rows = [_row(queue, job) for job in found[:limit]]
        return JobList(jobs=rows, next=rows[-1].id if len(found) > limit else None)

    return await _beside(page)


@router.get("/v1/jobs/{id}", responses=documented(problems.NOT_FOUND))
async def job(request: Request, number: Number) -> JobRow:
    """A job: its state, how far it is, how fast, how long it will take, and what failed."""
    queue = request.app.state.serving.jobs()
    return await _beside(lambda: _row(queue, queue.job(number)))


@router.get(
    "/v1/jobs/{id}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`progress` with the job whenever it changes, and `end` with it when it has ended.",
            "content": {"text/event-stream": {"itemSchema": EVENT}},
        },
        **documented(problems.NOT_FOUND),
    },
)
async def events(request: Request, number: Number) -> EventSourceResponse:
    """Follows a job until it is done, failed or cancelled."""
    serving: Serving = request.app.state.serving
    queue = serving.jobs()

    async def look() -> JobRow:
        return await _beside(lambda: _row(queue, queue.job(number)))

    first = await look()
    with serving.work() as work:  # a server that stops lets it end, and does not cut it off
        return JobEvents(first, look, lambda: serving.draining, work.pop_all())


@router.post("/v1/jobs/{id}/pause", responses=documented(problems.NOT_FOUND, problems.WRONG_STATE))
async def pause(request: Request, number: Number) -> JobRow:
    """Stops a job once the pictures in hand are done."""
    return await _steered(request, number, lambda queue, job: queue.store.pause(job))


@router.post("/v1/jobs/{id}/resume", responses=documented(problems.NOT_FOUND, problems.WRONG_STATE))
async def resume(request: Request, number: Number) -> JobRow:
    """Queues a job that was paused or failed; it goes on where it stopped."""
    return await _steered(request, number, lambda queue, job: queue.resume(job))


@router.post("/v1/jobs/{id}/cancel", responses=documented(problems.NOT_FOUND, problems.WRONG_STATE))
async def cancel(request: Request, number: Number) -> JobRow:
    """Ends a job for good. What was labelled stays."""
    return await _steered(request, number, lambda queue, job: queue.store.cancel(job))


@router.post("/v1/jobs/{id}/retry", responses=documented(problems.NOT_FOUND, problems.WRONG_STATE))
async def retry(
    request: Request,
    number: Number,
    kind: Annotated[str | None, Query(max_length=32, description="Only failures of this kind.")] = None,
) -> JobRow:
    """Tries the pictures that were set aside once more; a job that was done is queued again."""
    return await _steered(request, number, lambda queue, job: queue.retry(job, kind))


@router.get("/v1/jobs/{id}/results", responses=documented(problems.NOT_FOUND))
async def results(request: Request, number: Number, after: After = None, limit: Limit = 100) -> Results:
    """The labelled pictures in the source's order, page by page. While the job runs, a later look at a page may find
    more on it."""
    queue = request.app.state.serving.jobs()

    def page() -> Results:
        found = queue.store.placed(queue.job(number), after=-1 if after is None else after)
        rows = [picture_row(position, picture) for position, picture in islice(found, limit + 1)]
        more = len(rows) > limit
        return Results(pictures=rows[:limit], next=rows[limit - 1].position if more else None)

    return await _beside(page)


@router.get("/v1/jobs/{id}/failures", responses=documented(problems.NOT_FOUND))
async def failures(request: Request, number: Number, after: After = None, limit: Limit = 100) -> Failures:
    """The pictures that were set aside, with the reason, page by page."""
    queue = request.app.state.serving.jobs()

    def page() -> Failures:
        found = queue.store.failures(queue.job(number), -1 if after is None else after)
        rows = [failure_row(failure) for failure in islice(found, limit + 1)]
        more = len(rows) > limit
        return Failures(failures=rows[:limit], next=rows[limit - 1].position if more else None)

    return await _beside(page)


def _recipe(given: str | dict[str, Any]) -> Recipe:
    """Raises RecipeError. No file is ever read but the ready ones."""
    if isinstance(given, dict):
        return parsing.parse(given)
    if _NAME.fullmatch(given):
        if given in parsing.ready():
            return parsing.load(given)
        known = ", ".join(parsing.ready())
        raise parsing.RecipeError(
            "recipe", [parsing.Problem(f"no ready recipe is called {given!r}; there are {known}; or send one in YAML")]
        )
    return parsing.read(given)


async def _steered(request: Request, number: int, change: Callable[[JobQueue, Job], object]) -> JobRow:
    """The job after a change."""
    serving: Serving = request.app.state.serving
    queue = serving.jobs()
    serving.engine()

    def steered() -> JobRow:
        change(queue, queue.job(number))
        return _row(queue, queue.job(number))

    return await _beside(steered)


async def _beside(call: Callable[[], T]) -> T:
    """What a call of the store gives, made beside the event loop. Raises Problem."""
    with told():
        return await anyio.to_thread.run_sync(call)


def _row(queue: JobQueue, job: Job) -> JobRow:
    return job_row(job, queue.store.progress(job), queue.rate(job))


router.include_router(job_files.router)
