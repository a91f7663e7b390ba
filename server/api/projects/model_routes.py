"""Routes of a project's models: list, combine, promote and roll back."""

import logging
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Response

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, LifecycleDep, ProjectsDep
from server.api.pages import create_page_response
from server.api.parameters import AfterQuery, LimitQuery, ProjectId
from server.api.problems import (
    BASE_MISMATCH,
    BODY_PROBLEMS,
    INSUFFICIENT_STORAGE,
    INVALID_ADAPTER,
    INVALID_REQUEST,
    INVALID_STATE,
    NOT_FOUND,
    PROMOTION_NOT_EARNED,
    ProblemError,
    document_problems,
)
from server.api.projects.access import PROJECT_RESPONSES, ProjectCallsDep
from server.api.projects.model_schemas import (
    EnsembleRequest,
    ProjectModelListResponse,
    ProjectModelResponse,
    PromoteRequest,
    PromotionResponse,
    RollbackRequest,
    create_model_response,
    create_promotion_response,
)
from server.store.projects.records import Project, Promotion

router = APIRouter(tags=["project models"], dependencies=[KeyRequired], responses=PROJECT_RESPONSES)
_MAX_PROMOTIONS = 1000  # each has a reason of at most 2000 characters
logger = logging.getLogger(__name__)


@router.get(
    "/v1/projects/{id}/models",
    summary="List the models of a project",
    response_model=ProjectModelListResponse,
    responses=document_problems(NOT_FOUND),
)
async def list_project_models(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    project_id: ProjectId,
    after: AfterQuery = None,
    limit: LimitQuery = 100,
) -> Response:
    """Returns the models of a project, oldest first, in pages, which of them are champions, and the newest 1000
    promotions."""
    store = projects.store

    def start() -> tuple[Project, dict[str, int | None], list[PromotionResponse]]:
        project = store.get_project(project_id)
        promotions = map(create_promotion_response, store.promotions.list_newest(project, _MAX_PROMOTIONS))
        return project, store.promotions.list_champions(project), list(promotions)

    project, champions, promotions = await calls.read(start)

    def read(ids: Sequence[int]) -> Iterator[ProjectModelResponse]:
        for model in store.models.list_models(project, ids):
            yield create_model_response(model, is_champion=champions.get(model.task) == model.id)

    return await create_page_response(
        calls,
        "models",
        lambda: store.models.plan_page(project, after or 0, limit),
        read,
        lambda page: {"next": page.next, "promotions": promotions},
    )


@router.post(
    "/v1/projects/{id}/models",
    summary="Combine models",
    status_code=201,
    openapi_extra=document_json_body(
        EnsembleRequest,
        {
            "add": {"value": {"combine": "add", "models": [1, 2], "weights": [0.5, 0.5]}},
            "fuse": {
                "value": {"combine": "fuse", "models": [1, 2, None], "weights": [1, 1, 0.5], "iou_threshold": 0.55}
            },
            "route": {
                "value": {"combine": "route", "models": [1, 2], "routes": {"bird": 1, "cat": 2}, "default": None}
            },
        },
    ),
    responses={
        201: {"description": "The model is stored."},
        **document_problems(*BODY_PROBLEMS, NOT_FOUND, INSUFFICIENT_STORAGE),
    },
)
async def combine_models(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: EngineDep,
    project_id: ProjectId,
    body: Annotated[EnsembleRequest, Depends(JsonBody(EnsembleRequest, '{"combine": "add", "models": [1, 2]}'))],
) -> ProjectModelResponse:
    """Creates a model from other models of the project.

    `add` sums their adapters. With `fuse` all models answer, and their boxes are fused. With `route` all models
    answer, and each label is taken from the model that is best at it. The result is backtested, promoted and used like
    any other model. A streamed answer of several models has all its annotations at the end.
    """
    model = await calls.write(
        lambda: projects.models.create_ensemble(projects.store.get_project(project_id), body.root)
    )
    logger.info("project %d: created model %d from other models: %s", project_id, model.id, body.root)
    return create_model_response(model, is_champion=False)


@router.post(
    "/v1/projects/{id}/promote",
    summary="Promote a model",
    openapi_extra=document_json_body(
        PromoteRequest,
        {"earned": {"value": {"model": 1}}, "forced": {"value": {"model": 1, "forced": True, "reason": "a demo"}}},
    ),
    responses=document_problems(
        *BODY_PROBLEMS, NOT_FOUND, BASE_MISMATCH, PROMOTION_NOT_EARNED, INVALID_STATE, INVALID_ADAPTER
    ),
)
async def promote_model(
    lifecycle: LifecycleDep,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: Annotated[PromoteRequest, Depends(JsonBody(PromoteRequest, '{"model": 1}'))],
) -> PromotionResponse:
    """Makes a model the champion of its task, if it has won its newest backtest against the current champion.

    New prompts are answered by it. Running prompts finish with the model they started with.
    """
    if body.forced and not body.reason.strip():
        raise ProblemError(INVALID_REQUEST, "a forced promotion needs a reason, which is logged", "reason")

    def promote() -> Promotion:
        project = projects.store.get_project(project_id)
        model = projects.store.models.get_model(project, body.model)
        return projects.models.promote(project, model, client_id, forced=body.forced, reason=body.reason)

    await calls.write(projects.store.database.check_writable)
    promotion = await calls.run(promote, lifecycle.adapter_limiter)
    how = f"forced: {promotion.reason}" if promotion.forced else f"by backtest {promotion.backtest_id}"
    logger.info("project %d: promoted model %s for %s, %s", project_id, promotion.model_id, promotion.task, how)
    return create_promotion_response(promotion)


@router.post(
    "/v1/projects/{id}/rollback",
    summary="Roll back a promotion",
    openapi_extra=document_json_body(RollbackRequest, {"objects": {"value": {"task": "<OD>"}}}),
    responses=document_problems(*BODY_PROBLEMS, NOT_FOUND, BASE_MISMATCH, INVALID_STATE, INVALID_ADAPTER),
)
async def roll_back_promotion(
    lifecycle: LifecycleDep,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: Annotated[RollbackRequest, Depends(JsonBody(RollbackRequest, '{"task": "<OD>"}'))],
) -> PromotionResponse:
    """Makes the previous champion of a task, or the base model, the champion again."""

    def roll_back() -> Promotion:
        project = projects.store.get_project(project_id)
        return projects.models.roll_back(project, body.task, client_id, body.reason)

    await calls.write(projects.store.database.check_writable)
    promotion = await calls.run(roll_back, lifecycle.adapter_limiter)
    champion = "the base model" if promotion.model_id is None else f"model {promotion.model_id}"
    logger.info("project %d: rolled back %s to %s", project_id, promotion.task, champion)
    return create_promotion_response(promotion)
