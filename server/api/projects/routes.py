"""Routes of projects: create, list, change and delete them."""

import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from server.api.auth import KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, ProjectsDep
from server.api.parameters import AfterQuery, LimitQuery, ProjectId
from server.api.problems import BODY_PROBLEMS, NAME_TAKEN, NOT_FOUND, document_problems
from server.api.projects.access import PROJECT_RESPONSES, ProjectCallsDep
from server.api.projects.schemas import (
    ChangedProjectResponse,
    ProjectChanges,
    ProjectListResponse,
    ProjectRequest,
    ProjectResponse,
    create_changed_response,
    create_project_response,
)

router = APIRouter(tags=["projects"], dependencies=[KeyRequired], responses=PROJECT_RESPONSES)
logger = logging.getLogger(__name__)


@router.post(
    "/v1/projects",
    summary="Create a project",
    status_code=201,
    openapi_extra=document_json_body(ProjectRequest, {"birds": {"value": {"name": "birds", "tasks": ["<OD>"]}}}),
    responses={201: {"description": "The project is created."}, **document_problems(*BODY_PROBLEMS, NAME_TAKEN)},
)
async def create_project(
    response: Response,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    engine: EngineDep,
    body: Annotated[ProjectRequest, Depends(JsonBody(ProjectRequest, '{"name": "birds", "tasks": ["<OD>"]}'))],
) -> ProjectResponse:
    """Creates a project. Its corrections train adapters of the model that the server runs."""
    tasks = tuple(dict.fromkeys(body.tasks))
    project = await calls.write(lambda: projects.create_project(body.name, tasks, body.holdout_share, body.classes))
    response.headers["Location"] = f"/v1/projects/{project.id}"
    logger.info("created the project %s", project.name)
    return create_project_response(project, engine.checkpoint.sha256, images=0)


@router.get("/v1/projects", summary="List the projects")
async def list_projects(
    calls: ProjectCallsDep, projects: ProjectsDep, after: AfterQuery = None, limit: LimitQuery = 100
) -> ProjectListResponse:
    """Returns all projects, oldest first, in pages."""
    served_sha256 = projects.engine.checkpoint.sha256

    def read_page() -> ProjectListResponse:
        store = projects.store
        found = store.list_projects(after or 0, limit + 1)
        page = [
            create_project_response(project, served_sha256, store.corrections.count_images(project))
            for project in found[:limit]
        ]
        return ProjectListResponse(projects=page, next=page[-1].id if len(found) > limit else None)

    return await calls.read(read_page)


@router.get("/v1/projects/{id}", summary="Get a project", responses=document_problems(NOT_FOUND))
async def get_project(calls: ProjectCallsDep, projects: ProjectsDep, project_id: ProjectId) -> ProjectResponse:
    """Returns a project."""

    def read() -> ProjectResponse:
        project = projects.store.get_project(project_id)
        images = projects.store.corrections.count_images(project)
        return create_project_response(project, projects.engine.checkpoint.sha256, images)

    return await calls.read(read)


@router.patch(
    "/v1/projects/{id}",
    summary="Change a project",
    openapi_extra=document_json_body(ProjectChanges, {"classes": {"value": {"classes": ["robin", "wren"]}}}),
    responses=document_problems(*BODY_PROBLEMS, NOT_FOUND),
)
async def change_project(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    engine: EngineDep,
    project_id: ProjectId,
    body: Annotated[ProjectChanges, Depends(JsonBody(ProjectChanges, '{"classes": ["robin", "wren"]}'))],
) -> ChangedProjectResponse:
    """Declares the classes of a project. From the next prompt on, answers are held to them.

    Existing corrections stay as they are. `outside` counts their annotations of other classes, which later runs and
    backtests leave out.
    """

    def change() -> ChangedProjectResponse:
        project = projects.set_classes(projects.store.get_project(project_id), body.classes)
        images = projects.store.corrections.count_images(project)
        changed = create_project_response(project, engine.checkpoint.sha256, images)
        return create_changed_response(changed, projects.corrections.count_outside(project))

    changed = await calls.write(change)
    logger.info("project %s declares %d classes", changed.name, len(changed.classes))
    return changed


@router.delete(
    "/v1/projects/{id}",
    summary="Delete a project",
    status_code=204,
    response_class=Response,
    responses=document_problems(NOT_FOUND),
)
async def delete_project(calls: ProjectCallsDep, projects: ProjectsDep, _: EngineDep, project_id: ProjectId) -> None:
    """Deletes a project with its images, runs and adapters. Running prompts finish."""
    await calls.write(lambda: projects.delete_project(projects.store.get_project(project_id)))
    logger.info("deleted project %d", project_id)
