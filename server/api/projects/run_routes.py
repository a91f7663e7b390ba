"""Routes of fine-tune runs: start, watch and control them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, LifecycleDep, ProjectsDep, RequestStackDep
from server.api.pages import create_page_response
from server.api.parameters import AfterQuery, LimitQuery, ProjectId
from server.api.problems import (
    BASE_MISMATCH,
    BODY_PROBLEMS,
    INVALID_STATE,
    NO_TRAINING_DATA,
    NOT_FOUND,
    SOURCE_NOT_ALLOWED,
    TRAINING_NOT_INSTALLED,
    ProblemError,
    document_problems,
)
from server.api.progress_events import document_progress_events, generate_progress_events
from server.api.projects.access import PROJECT_RESPONSES, ProjectCallsDep
from server.api.projects.run_schemas import (
    RunId,
    RunListResponse,
    RunRequest,
    RunResponse,
    RunSummaryResponse,
    create_run_response,
    summarize_run,
)
from server.api.threads import ThreadCalls
from server.jobs.sources import addresses
from server.settings import get_variable_name
from server.store.text import redact_address

if TYPE_CHECKING:
    from server.jobs.queue import JobQueue
    from server.projects.projects import Projects
    from server.store.projects.records import Project, Run

router = APIRouter(tags=["runs"], dependencies=[KeyRequired], responses=PROJECT_RESPONSES)


@router.post(
    "/v1/projects/{id}/runs",
    summary="Start a fine-tune run",
    status_code=201,
    openapi_extra=document_json_body(
        RunRequest,
        {
            "quick": {"value": {"steps": 200}},
            "continue": {"value": {"steps": 200, "initial_model": "champion"}},
        },
    ),
    responses={
        201: {"description": "The run waits in the queue."},
        **document_problems(
            *BODY_PROBLEMS,
            SOURCE_NOT_ALLOWED,
            TRAINING_NOT_INSTALLED,
            NOT_FOUND,
            BASE_MISMATCH,
            NO_TRAINING_DATA,
            INVALID_STATE,
        ),
    },
)
async def start_run(
    response: Response,
    lifecycle: LifecycleDep,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: Annotated[BaseModel, Depends(JsonBody(RunRequest, '{"steps": 200}'))],
) -> RunResponse:
    """Fine-tunes an adapter on the current corrections, starting from the base model or from a model of the project.

    One run at a time is active, in a process with low priority. It continues after a restart of the server. At the end
    it creates a model for each of its tasks; with the state `no-gain`, it creates none unless `keep` is true.
    """
    settings = body.model_dump(exclude_unset=True)
    initial_model, keep = settings.pop("initial_model", None), settings.pop("keep", False)
    if not settings.get("tasks"):
        settings.pop("tasks", None)
    if replay_source := settings.get("replay_dataset"):
        settings["replay_dataset"] = _resolve_dataset(lifecycle.require_jobs(), replay_source)

    def start() -> RunResponse:
        project = projects.store.get_project(project_id)
        run = projects.runs.start_run(project, settings, client_id, initial_model, keep=keep)
        return create_run_response(run, None, [], [])

    run = await calls.write(start)
    response.headers["Location"] = f"/v1/projects/{project_id}/runs/{run.id}"
    return run


@router.get(
    "/v1/projects/{id}/runs",
    summary="List the fine-tune runs",
    response_model=RunListResponse,
    responses=document_problems(NOT_FOUND),
)
async def list_runs(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    project_id: ProjectId,
    after: AfterQuery = None,
    limit: LimitQuery = 100,
) -> Response:
    """Returns all runs, oldest first, in pages."""
    store = projects.store
    project = await calls.read(lambda: store.get_project(project_id))

    def read(ids: Sequence[int]) -> Iterator[RunResponse]:
        runs = store.runs.list_runs(project, ids)
        models = store.runs.list_model_ids(runs)
        for run in runs:
            progress, classes = projects.runs.read_progress(project, run), projects.runs.read_classes(project, run)
            yield create_run_response(run, progress, models[run.id], classes)

    return await create_page_response(calls, "runs", lambda: store.runs.plan_page(project, after or 0, limit), read)


@router.get("/v1/projects/{id}/runs/{run_id}", summary="Get a fine-tune run", responses=document_problems(NOT_FOUND))
async def get_run(calls: ProjectCallsDep, projects: ProjectsDep, project_id: ProjectId, run_id: RunId) -> RunResponse:
    """Returns a run: its state, progress and models."""
    return await calls.read(lambda: _describe_run(projects, project_id, run_id))


@router.get(
    "/v1/projects/{id}/runs/{run_id}/events",
    summary="Watch a fine-tune run",
    response_class=EventSourceResponse,
    responses={200: document_progress_events("run"), **document_problems(NOT_FOUND)},
)
async def watch_run(
    lifecycle: LifecycleDep,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: RequestStackDep,
    project_id: ProjectId,
    run_id: RunId,
) -> EventSourceResponse:
    """Streams the progress of a run, without its settings, as server-sent events until it has ended."""

    async def poll() -> RunSummaryResponse:
        run = await calls.read(lambda: _describe_run(projects, project_id, run_id))
        return summarize_run(run)

    return EventSourceResponse(generate_progress_events(await poll(), poll, lambda: lifecycle.draining))


@router.post(
    "/v1/projects/{id}/runs/{run_id}/cancel",
    summary="Cancel a fine-tune run",
    responses=document_problems(NOT_FOUND, INVALID_STATE),
)
async def cancel_run(
    calls: ProjectCallsDep, projects: ProjectsDep, _: EngineDep, project_id: ProjectId, run_id: RunId
) -> RunResponse:
    """Ends a run permanently."""
    return await _change_run(calls, projects, project_id, run_id, projects.runs.cancel_run)


@router.post(
    "/v1/projects/{id}/runs/{run_id}/resume",
    summary="Resume a fine-tune run",
    responses=document_problems(TRAINING_NOT_INSTALLED, NOT_FOUND, INVALID_STATE),
)
async def resume_run(
    calls: ProjectCallsDep, projects: ProjectsDep, _: EngineDep, project_id: ProjectId, run_id: RunId
) -> RunResponse:
    """Queues a failed run again. It continues where it stopped."""
    return await _change_run(calls, projects, project_id, run_id, projects.runs.resume_run)


def _resolve_dataset(queue: "JobQueue", source: str) -> str:
    """Returns the path of a dataset. Raises ProblemError if it is not absolute, or jobs may not read from it."""
    path = str(Path(source).absolute())
    if not source.startswith("/") or "\0" in source or addresses.is_url(source) or not queue.is_allowed(path):
        setting = get_variable_name("jobs_sources")
        detail = f"{redact_address(source)[:200]} is not an absolute path in a folder that the setting {setting} allows"
        raise ProblemError(SOURCE_NOT_ALLOWED, f"{detail}; the operator can add it", "replay_dataset")
    return path


def _describe_run(projects: "Projects", project_id: int, run_id: int) -> RunResponse:
    project = projects.store.get_project(project_id)
    run = projects.store.runs.get_run(project, run_id)
    models = projects.store.runs.list_model_ids([run])[run.id]
    progress, classes = projects.runs.read_progress(project, run), projects.runs.read_classes(project, run)
    return create_run_response(run, progress, models, classes)


async def _change_run(
    calls: ThreadCalls, projects: "Projects", project_id: int, run_id: int, change: "Callable[[Project, Run], object]"
) -> RunResponse:
    """Changes a run and returns it."""

    def change_and_read() -> RunResponse:
        project = projects.store.get_project(project_id)
        change(project, projects.store.runs.get_run(project, run_id))
        return _describe_run(projects, project_id, run_id)

    return await calls.write(change_and_read)
