"""Routes of backtests: start and read them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, ProjectsDep
from server.api.pages import JSON_TYPE, create_page_response
from server.api.parameters import AfterQuery, LimitQuery, ProjectId
from server.api.problems import BASE_MISMATCH, BODY_PROBLEMS, NOT_FOUND, document_problems
from server.api.projects.access import PROJECT_RESPONSES, ProjectCallsDep
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
    calls: ProjectCallsDep,
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

    backtest = await calls.write(start)
    response.headers["Location"] = f"/v1/projects/{project_id}/backtests/{backtest.id}"
    return backtest


@router.get(
    "/v1/projects/{id}/backtests",
    summary="List the backtests",
    response_model=BacktestListResponse,
    responses=document_problems(NOT_FOUND),
)
async def list_backtests(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    project_id: ProjectId,
    after: AfterQuery = None,
    limit: LimitQuery = 100,
) -> Response:
    """Returns all backtests, oldest first, in pages."""
    store = projects.store
    project = await calls.read(lambda: store.get_project(project_id))
    return await create_page_response(
        calls,
        "backtests",
        lambda: store.backtests.plan_page(project, after or 0, limit),
        lambda ids: (
            create_backtest_response(each, projects.models.get_backtest_progress(each))
            for each in store.backtests.list_backtests(project, ids)
        ),
    )


@router.get(
    "/v1/projects/{id}/backtests/{backtest_id}",
    summary="Get a backtest",
    response_model=BacktestDetailsResponse,
    responses=document_problems(NOT_FOUND),
)
async def get_backtest(
    calls: ProjectCallsDep, projects: ProjectsDep, project_id: ProjectId, backtest_id: BacktestId
) -> Response:
    """Returns a backtest: how far it is while it runs, then with the counts of each image."""

    def read() -> bytes:
        project = projects.store.get_project(project_id)
        backtest = projects.store.backtests.get_backtest(project, backtest_id)
        progress = projects.models.get_backtest_progress(backtest)
        return create_backtest_details(backtest, progress).model_dump_json().encode()

    return Response(await calls.read(read), media_type=JSON_TYPE)
