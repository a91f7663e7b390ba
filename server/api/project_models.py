"""A project's models over HTTP: the registry, backtests, and who answers."""

import logging
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from server.api import problems, project_bodies
from server.api.auth import Authorised, client_of
from server.api.problems import Problem, documented
from server.api.project_rows import (
    BacktestDetails,
    BacktestRow,
    Backtests,
    ModelRow,
    Models,
    PromotionRow,
    backtest_details,
    backtest_row,
    model_row,
    promotion_row,
)
from server.api.project_schemas import BacktestRequest, CombineRequest, Entry, Number, PromoteRequest, RollbackRequest
from server.api.projects import BODY, COMMON, After, Limit, beside, body
from server.serving import Serving

if TYPE_CHECKING:
    from server.store.projects.records import Promotion

router = APIRouter(tags=["projects"], dependencies=[Authorised], responses=COMMON)
SCHEMAS = (CombineRequest, BacktestRequest, PromoteRequest, RollbackRequest)
logger = logging.getLogger(__name__)


@router.get("/v1/projects/{id}/models", responses=documented(problems.NOT_FOUND))
async def models(request: Request, number: Number) -> Models:
    """The registry: each model, what it was made from, who answers, and all promotions there were."""
    projects = request.app.state.serving.projects()

    def found() -> Models:
        project = projects.store.get_project(number)
        history = projects.store.promotions.list_promotions(project)
        answers = {promotion.task: promotion.model_id for promotion in history}
        rows = [
            model_row(each, answers.get(each.task) == each.id) for each in projects.store.models.list_models(project)
        ]
        return Models(models=rows, promotions=list(map(promotion_row, history)))

    return await beside(found)


@router.post(
    "/v1/projects/{id}/models",
    status_code=201,
    openapi_extra=body(
        "CombineRequest",
        add={"combine": "add", "models": [1, 2], "weights": [0.5, 0.5]},
        fuse={"combine": "fuse", "models": [1, 2, None], "weights": [1, 1, 0.5], "iou_threshold": 0.55},
        route={"combine": "route", "models": [1, 2], "routes": {"bird": 1, "cat": 2}, "default": None},
    ),
    responses={
        201: {"description": "It is in the registry."},
        **documented(*BODY, problems.NOT_FOUND, problems.NO_ROOM),
    },
)
async def combine(request: Request, number: Number) -> ModelRow:
    """Makes a model of others: adds their adapters up to one (`add`), or lets all of them answer and fuses their boxes
    (`fuse`) or takes each label from the one that is best at it (`route`). It is backtested, promoted and asked as any
    other; where several answer, a stream has all annotations at its end."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    asked = await project_bodies.read(request, CombineRequest, '{"combine": "add", "models": [1, 2]}')
    model = await beside(lambda: projects.models.create_ensemble(projects.store.get_project(number), asked.root))
    logger.info("project %d: model %d is made of others: %s", number, model.id, asked.root)
    return model_row(model, False)


@router.post(
    "/v1/projects/{id}/backtests",
    status_code=201,
    openapi_extra=body("BacktestRequest", one={"model": 1}, quick={"model": 1, "probe": 0}),
    responses={
        201: {"description": "It waits for its turn."},
        **documented(*BODY, problems.NOT_FOUND, problems.OTHER_BASE),
    },
)
async def begin(request: Request, response: Response, number: Number) -> BacktestRow:
    """Begins a backtest: a model and who answers for its task now are asked about the same held-out pictures. It also
    tells what the model has forgotten of the base's own world, where there is something to tell by."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    asked = await project_bodies.read(request, BacktestRequest, '{"model": 1}')

    def begun() -> BacktestRow:
        project = projects.store.get_project(number)
        model = projects.store.models.get_model(project, asked.model)
        return backtest_row(projects.models.start_backtest(project, model, client_of(request), asked.probe))

    row = await beside(begun)
    response.headers["Location"] = f"/v1/projects/{number}/backtests/{row.id}"
    return row


@router.get("/v1/projects/{id}/backtests", responses=documented(problems.NOT_FOUND))
async def backtests(request: Request, number: Number, after: After = None, limit: Limit = 100) -> Backtests:
    """All backtests, the oldest first, page by page."""
    projects = request.app.state.serving.projects()

    def page() -> Backtests:
        found = projects.store.backtests.list_backtests(projects.store.get_project(number), after or 0, limit + 1)
        rows = list(map(backtest_row, found[:limit]))
        return Backtests(backtests=rows, next=rows[-1].id if len(found) > limit else None)

    return await beside(page)


@router.get("/v1/projects/{id}/backtests/{n}", responses=documented(problems.NOT_FOUND))
async def backtest(request: Request, number: Number, entry: Entry) -> BacktestDetails:
    """A backtest, with each picture."""
    projects = request.app.state.serving.projects()
    return await beside(
        lambda: backtest_details(projects.store.backtests.get_backtest(projects.store.get_project(number), entry))
    )


@router.post(
    "/v1/projects/{id}/promote",
    openapi_extra=body("PromoteRequest", earned={"model": 1}, forced={"model": 1, "forced": True, "reason": "a demo"}),
    responses=documented(
        *BODY,
        problems.NOT_FOUND,
        problems.OTHER_BASE,
        problems.NOT_EARNED,
        problems.WRONG_STATE,
        problems.INVALID_ADAPTER,
    ),
)
async def promote(request: Request, number: Number) -> PromotionRow:
    """Lets a model answer for its task, where its newest backtest against who answers now was won. Prompts under way
    end as they began; who asks next asks it."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    asked = await project_bodies.read(request, PromoteRequest, '{"model": 1}')
    if asked.forced and not asked.reason.strip():
        raise Problem(problems.INVALID_REQUEST, "say why, for the log", "reason")

    def promoted() -> "Promotion":
        project = projects.store.get_project(number)
        model = projects.store.models.get_model(project, asked.model)
        return projects.models.promote(project, model, client_of(request), forced=asked.forced, reason=asked.reason)

    promotion = await beside(promoted, serving.storing)
    how = f"forced: {promotion.reason}" if promotion.forced else f"by backtest {promotion.backtest_id}"
    logger.info("project %d: model %s answers for %s, %s", number, promotion.model_id, promotion.task, how)
    return promotion_row(promotion)


@router.post(
    "/v1/projects/{id}/rollback",
    openapi_extra=body("RollbackRequest", objects={"task": "<OD>"}),
    responses=documented(
        *BODY, problems.NOT_FOUND, problems.OTHER_BASE, problems.WRONG_STATE, problems.INVALID_ADAPTER
    ),
)
async def rollback(request: Request, number: Number) -> PromotionRow:
    """Lets who answered before answer again."""
    serving: Serving = request.app.state.serving
    projects = serving.projects()
    serving.engine()
    asked = await project_bodies.read(request, RollbackRequest, '{"task": "<OD>"}')

    def back() -> "Promotion":
        project = projects.store.get_project(number)
        return projects.models.roll_back(project, asked.task, client_of(request), asked.reason)

    promotion = await beside(back, serving.storing)
    who = "the base" if promotion.model_id is None else f"model {promotion.model_id}"
    logger.info("project %d: %s answers for %s again", number, who, promotion.task)
    return promotion_row(promotion)
