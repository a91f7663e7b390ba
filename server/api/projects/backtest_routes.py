"""Routes of backtests: start and read them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, ProjectsDep
from server.api.parameters import AfterQuery, LimitQuery, ProjectId
from server.api.problems import BASE_MISMATCH, BODY_PROBLEMS, NOT_FOUND, document_problems
from server.api.projects.access import PROJECT_RESPONSES, run_in_thread
from server.api.projects.backtest_schemas import (
    BacktestDetailsResponse,
    BacktestId,
    BacktestListResponse,
    BacktestRequest,
    BacktestResponse,
    create_backtest_details,
    create_backtest_response,
)

router = APIRouter(tags=["backtests"], dependencies=[KeyRequired], responses=PROJECT_RESPONSES)


@router.post(
    "/v1/projects/{id}/backtests",
    summary="Start a backtest",
    status_code=201,
    openapi_extra=document_json_body(
        BacktestRequest, {"one": {"value": {"model": 1}}, "quick": {"value": {"model": 1, "forgetting_images": 0}}}
    ),
    responses={
        201: {"description": "The backtest waits in the queue."},
        **document_problems(*BODY_PROBLEMS, NOT_FOUND, BASE_MISMATCH),
    },
)
async def start_backtest(
    response: Response,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: Annotated[BacktestRequest, Depends(JsonBody(BacktestRequest, '{"model": 1}'))],
) -> BacktestResponse:
    """Compares a model with the current champion of its task, on the holdout images.

    It also measures what the model has forgotten of the base model's abilities, if there are images to measure it on.
    """

    def start() -> BacktestResponse:
        project = projects.store.get_project(project_id)
        model = projects.store.models.get_model(project, body.model)
        backtest = projects.models.start_backtest(project, model, client_id, body.forgetting_images)
        return create_backtest_response(backtest)

    backtest = await run_in_thread(start)
    response.headers["Location"] = f"/v1/projects/{project_id}/backtests/{backtest.id}"
    return backtest


@router.get("/v1/projects/{id}/backtests", summary="List the backtests", responses=document_problems(NOT_FOUND))
async def list_backtests(
    projects: ProjectsDep, project_id: ProjectId, after: AfterQuery = None, limit: LimitQuery = 100
) -> BacktestListResponse:
    """Returns all backtests, oldest first, in pages."""

    def read_page() -> BacktestListResponse:
        project = projects.store.get_project(project_id)
        backtests = projects.store.backtests.list_backtests(project, after or 0, limit + 1)
        page = list(map(create_backtest_response, backtests[:limit]))
        return BacktestListResponse(backtests=page, next=page[-1].id if len(backtests) > limit else None)

    return await run_in_thread(read_page)


@router.get(
    "/v1/projects/{id}/backtests/{backtest_id}", summary="Get a backtest", responses=document_problems(NOT_FOUND)
)
async def get_backtest(
    projects: ProjectsDep, project_id: ProjectId, backtest_id: BacktestId
) -> BacktestDetailsResponse:
    """Returns a backtest with the counts of each image."""

    def read() -> BacktestDetailsResponse:
        project = projects.store.get_project(project_id)
        return create_backtest_details(projects.store.backtests.get_backtest(project, backtest_id))

    return await run_in_thread(read)
