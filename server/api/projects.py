"""Micro-models over HTTP: projects and what is corrected in them. Runs are in `project_runs`, models in
`project_models`."""

import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response

from server.api import bodies, examples, problems, project_bodies
from server.api.auth import Authorised, client_of
from server.api.job_problems import STORED
from server.api.job_schemas import LARGEST
from server.api.problems import documented
from server.api.project_problems import told
from server.api.project_rows import (
    CorrectionRow,
    Corrections,
    NextPictures,
    PictureCount,
    ProjectList,
    ProjectRow,
    correction_row,
    next_picture,
    project_row,
)
from server.api.project_schemas import CorrectionRequest, JobTaken, Number, ProjectRequest
from server.serving import Serving

BODY = (
    problems.BAD_BODY,
    problems.TOO_SLOW,
    problems.TOO_LARGE,
    problems.UNSUPPORTED_TYPE,
    problems.INVALID_REQUEST,
)
_UNREADY = (problems.LOADING, problems.NO_MODEL, problems.SHUTTING_DOWN)
COMMON: Any = documented(problems.UNAUTHORIZED, problems.NO_PROJECTS, problems.INVALID_REQUEST, *_UNREADY, *STORED)
router = APIRouter(tags=["projects"], dependencies=[Authorised], responses=COMMON)
logger = logging.getLogger(__name__)
T = TypeVar("T")

After = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next` of the page before; none for the first.")]
Limit = Annotated[int, Query(ge=1, le=1000)]


def body(model: str, **examples: Any) -> dict[str, Any]:
    """The OpenAPI of a body in JSON."""
    named = {name: {"value": value} for name, value in examples.items()}
    content = {"schema": {"$ref": f"#/components/schemas/{model}"}, **({"examples": named} if named else {})}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


_CORRECTION = body("CorrectionRequest", box=examples.correction())
_CORRECTION["requestBody"]["content"][bodies.FORM] = {
    "schema": {
        "type": "object",
        "required": ["image", "annotations"],
        "properties": {
            "image": {"type": "string", "format": "binary", "description": "The picture's file."},
            "annotations": {"type": "string", "description": "A JSON list."},
            "kind": {"type": "string", "enum": ["objects", "words", "captions"]},
            "complete": {"type": "boolean"},
            "name": {"type": "string"},
            "author": {"type": "string"},
        },
    }
}


@router.post(
    "/v1/projects",
    status_code=201,
    openapi_extra=body("ProjectRequest", birds={"name": "birds", "tasks": ["<OD>"]}),
    responses={201: {"description": "It is there."}, **documented(*BODY, problems.NAME_TAKEN)},
)
async def create(request: Request, response: Response) -> ProjectRow:
    """Makes a project: what is corrected in it teaches adapters on the model that is served."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    engine = serving.engine()
    asked = await project_bodies.read(request, ProjectRequest, '{"name": "birds", "tasks": ["<OD>"]}')
    project = await beside(
        lambda: projects.create_project(asked.name, tuple(dict.fromkeys(asked.tasks)), asked.held_share)
    )
    response.headers["Location"] = f"/v1/projects/{project.id}"
    logger.info("the project %s is made", project.name)
    return project_row(project, engine.checkpoint.sha256, 0)


@router.get("/v1/projects")
async def projects(request: Request, after: After = None, limit: Limit = 100) -> ProjectList:
    """All projects, the oldest first, page by page."""
    projects = request.app.state.serving.projects()
    served = projects.engine.checkpoint.sha256

    def page() -> ProjectList:
        found = projects.store.list_projects(after or 0, limit + 1)
        rows = [
            project_row(project, served, projects.store.corrections.count_images(project)) for project in found[:limit]
        ]
        return ProjectList(projects=rows, next=rows[-1].id if len(found) > limit else None)

    return await beside(page)


@router.get("/v1/projects/{id}", responses=documented(problems.NOT_FOUND))
async def project(request: Request, number: Number) -> ProjectRow:
    """A project."""
    projects = request.app.state.serving.projects()

    def row() -> ProjectRow:
        project = projects.store.get_project(number)
        return project_row(project, projects.engine.checkpoint.sha256, projects.store.corrections.count_images(project))

    return await beside(row)


@router.delete("/v1/projects/{id}", status_code=204, response_class=Response, responses=documented(problems.NOT_FOUND))
async def delete(request: Request, number: Number) -> None:
    """Removes a project with its pictures, runs and adapters. Prompts under way end as they began."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    await beside(lambda: projects.delete_project(projects.store.get_project(number)))
    logger.info("project %d is removed", number)


@router.post(
    "/v1/projects/{id}/corrections",
    status_code=201,
    openapi_extra=_CORRECTION,
    responses={
        201: {"description": "It is kept."},
        **documented(*BODY, problems.NOT_FOUND, problems.INVALID_PICTURE, problems.INVALID_LABELS),
    },
)
async def correct(request: Request, number: Number) -> CorrectionRow:
    """Keeps a picture and its labels as a person left them: as JSON with the picture in base64, or as a form with its
    file. Nothing is overwritten: the same picture again is the next version."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    with serving.work():
        asked, data = await project_bodies.correction(request)

        def keep() -> CorrectionRow:
            from server.projects.project_dataset import is_holdout

            project = projects.store.get_project(number)
            kept = projects.corrections.add_correction(
                project, data, asked.annotations, kind=asked.kind, complete=asked.complete, image_name=asked.name,
                author=asked.author or client_of(request), max_pixels=serving.settings.max_pixels,
            )  # fmt: skip
            return correction_row(kept, is_holdout(kept.content.image_sha256, project.holdout_share))

        return await beside(keep, serving.decoding)


@router.post(
    "/v1/projects/{id}/corrections/job",
    openapi_extra=body("JobTaken", job={"job": 1}),
    responses=documented(
        *BODY,
        problems.NO_JOBS,
        problems.NOT_FOUND,
        problems.INVALID_SOURCE,
        problems.INVALID_LABELS,
        problems.SOURCE_REFUSED,
    ),
)
async def take(request: Request, number: Number) -> PictureCount:
    """Takes the labels of a job as they stand: for one whose labels a person has looked through."""
    serving: Serving = request.app.state.serving
    projects, queue = serving.projects(), serving.jobs()
    serving.engine()
    with serving.work():
        asked = await project_bodies.read(request, JobTaken, '{"job": 1}')

        def taken() -> int:
            project, job = projects.store.get_project(number), queue.job(asked.job)
            with queue.source(job) as source:
                pictures = queue.store.iter_images(job, lambda position: source[position].read())
                return projects.corrections.import_job(project, pictures, asked.author or client_of(request))

        return PictureCount(pictures=await beside(taken, serving.queueing))


@router.get("/v1/projects/{id}/next", responses=documented(problems.NO_JOBS, problems.NOT_FOUND))
async def doubtful(
    request: Request,
    number: Number,
    job: Annotated[int, Query(ge=1, le=LARGEST, description="The job whose pictures are looked through.")],
    count: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> NextPictures:
    """What to correct next: of the pictures that a job has labelled so far and that are not corrected in the project,
    those that tell most first: of doubtful labels, whose names were seldom corrected or chosen. Its labels of one kind
    that stand alone (`parent` null), mended, are a correction. Whoever asks again after correcting some gets the next
    ones."""
    serving: Serving = request.app.state.serving
    projects, queue = serving.projects(), serving.jobs()

    def found() -> NextPictures:
        from server.projects.project_dataset import is_holdout

        project, asked = projects.store.get_project(number), queue.job(job)
        waiting = queue.store.get_progress(asked).unfinished
        chosen, left = projects.corrections.select_next(project, queue.store.iter_images_with_positions(asked), count)
        rows = [next_picture(each, is_holdout(each.image.sha256, project.holdout_share)) for each in chosen]
        return NextPictures(pictures=rows, left=left, waiting=waiting)

    return await beside(found, serving.exporting)  # it reads a whole job's labels, as an export does


@router.get("/v1/projects/{id}/corrections", responses=documented(problems.NOT_FOUND))
async def corrections(request: Request, number: Number, after: After = None, limit: Limit = 100) -> Corrections:
    """All that was ever corrected, the oldest first, page by page."""
    projects = request.app.state.serving.projects()

    def page() -> Corrections:
        from server.projects.project_dataset import is_holdout

        project = projects.store.get_project(number)
        found = projects.store.corrections.list_corrections(project, after or 0, limit + 1)
        rows = [
            correction_row(each, is_holdout(each.content.image_sha256, project.holdout_share)) for each in found[:limit]
        ]
        return Corrections(corrections=rows, next=rows[-1].id if len(found) > limit else None)

    return await beside(page)


async def beside(call: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """What a call gives, made beside the event loop. Raises Problem."""
    with told():
        return await anyio.to_thread.run_sync(call, limiter=limiter)


SCHEMAS = (ProjectRequest, CorrectionRequest, JobTaken)  # for the OpenAPI, which refers to them above
