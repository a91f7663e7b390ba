"""Fine-tunes of a project over HTTP: begun, watched, ended."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from sse_starlette import EventSourceResponse

from server.api import problems, project_bodies
from server.api.auth import Authorised, client_of
from server.api.job_events import EVENT, JobEvents
from server.api.problems import Problem, documented
from server.api.project_rows import RunRow, Runs, run_row
from server.api.project_schemas import Entry, Number, TuneRequest
from server.api.projects import BODY, COMMON, After, Limit, beside, body
from server.jobs.sources import addresses
from server.serving import Serving
from server.settings import variable

if TYPE_CHECKING:
    from server.projects.projects import Projects
    from server.store.projects.records import Project, Run

router = APIRouter(tags=["projects"], dependencies=[Authorised], responses=COMMON)
SCHEMAS = (TuneRequest,)


@router.post(
    "/v1/projects/{id}/tune",
    status_code=201,
    openapi_extra=body("TuneRequest", quick={"steps": 200, "frozen_stages": 4}, on={"steps": 200, "start": "champion"}),
    responses={
        201: {"description": "It waits for its turn."},
        **documented(
            *BODY,
            problems.SOURCE_REFUSED,
            problems.NOT_FOUND,
            problems.OTHER_BASE,
            problems.NOTHING_TO_LEARN,
            problems.WRONG_STATE,
        ),
    },
)
async def tune(request: Request, response: Response, number: Number) -> RunRow:
    """Begins to fine-tune an adapter on what is corrected now, from the base or from one of the project's models on.
    One runs at a time, in a process that gives way to serving, and goes on after a restart of the server. At its end
    there is a model for each of its tasks."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    asked = await project_bodies.read(request, TuneRequest, '{"steps": 200}')
    settings = asked.model_dump(exclude_unset=True)
    start = settings.pop("start", None)
    if not settings.get("tasks"):
        settings.pop("tasks", None)
    if named := settings.get("replay_from"):
        settings["replay_from"] = _readable(serving, named)

    def begun() -> RunRow:
        return run_row(
            projects.runs.start_run(projects.store.get_project(number), settings, client_of(request), start), None, []
        )

    row = await beside(begun)
    response.headers["Location"] = f"/v1/projects/{number}/runs/{row.id}"
    return row


def _readable(serving: Serving, named: str) -> str:
    """The whole path of a dataset that a client names: in the places alone where jobs may read."""
    path = str(Path(named).absolute())
    if "\0" in named or addresses.is_url(named) or not serving.jobs().allowed(path):
        places = variable("jobs_sources")
        detail = f"{addresses.redact_address(named)[:200]} is in none of the folders that the server's setting {places} names"
        raise Problem(problems.SOURCE_REFUSED, f"{detail}; its operator can add it", "replay_from")
    return path


@router.get("/v1/projects/{id}/runs", responses=documented(problems.NOT_FOUND))
async def runs(request: Request, number: Number, after: After = None, limit: Limit = 100) -> Runs:
    """All fine-tunes, the oldest first, page by page."""
    projects = request.app.state.serving.projects()

    def page() -> Runs:
        project = projects.store.get_project(number)
        found = projects.store.runs.list_runs(project, after or 0, limit + 1)
        made = projects.store.runs.list_model_ids(found[:limit])
        rows = [run_row(run, projects.runs.read_progress(project, run), made[run.id]) for run in found[:limit]]
        return Runs(runs=rows, next=rows[-1].id if len(found) > limit else None)

    return await beside(page)


@router.get("/v1/projects/{id}/runs/{n}", responses=documented(problems.NOT_FOUND))
async def run(request: Request, number: Number, entry: Entry) -> RunRow:
    """A fine-tune: its state, how far it is, and what came of it."""
    projects = request.app.state.serving.projects()
    return await beside(lambda: _found(projects, number, entry))


@router.get(
    "/v1/projects/{id}/runs/{n}/events",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "`progress` with the run whenever it changes, and `end` with it when it has ended.",
            "content": {"text/event-stream": {"itemSchema": EVENT}},
        },
        **documented(problems.NOT_FOUND),
    },
)
async def events(request: Request, number: Number, entry: Entry) -> EventSourceResponse:
    """Follows a fine-tune until it is done, failed or cancelled."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()

    async def look() -> RunRow:
        return await beside(lambda: _found(projects, number, entry))

    first = await look()
    with serving.work() as work:  # a server that stops lets it end, and does not cut it off
        return JobEvents(first, look, lambda: serving.draining, work.pop_all())


@router.post("/v1/projects/{id}/runs/{n}/cancel", responses=documented(problems.NOT_FOUND, problems.WRONG_STATE))
async def cancel(request: Request, number: Number, entry: Entry) -> RunRow:
    """Ends a fine-tune for good."""
    return await _steered(request, number, entry, lambda projects, *which: projects.runs.cancel_run(*which))


@router.post("/v1/projects/{id}/runs/{n}/resume", responses=documented(problems.NOT_FOUND, problems.WRONG_STATE))
async def resume(request: Request, number: Number, entry: Entry) -> RunRow:
    """Queues a fine-tune that failed; it goes on where it stopped."""
    return await _steered(request, number, entry, lambda projects, *which: projects.runs.resume_run(*which))


async def _steered(
    request: Request, number: int, entry: int, change: "Callable[[Projects, Project, Run], Any]"
) -> RunRow:
    """The run after a change."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()

    def steered() -> RunRow:
        project = projects.store.get_project(number)
        change(projects, project, projects.store.runs.get_run(project, entry))
        return _found(projects, number, entry)

    return await beside(steered)


def _found(projects: "Projects", number: int, entry: int) -> RunRow:
    project = projects.store.get_project(number)
    run = projects.store.runs.get_run(project, entry)
    return run_row(run, projects.runs.read_progress(project, run), projects.store.runs.list_model_ids([run])[run.id])
