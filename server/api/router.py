"""All routes of the API, in the order in which /docs shows them."""

from fastapi import APIRouter

from server.api.adapters.routes import router as adapters_router
from server.api.health.routes import router as health_router
from server.api.jobs.class_routes import router as job_classes_router
from server.api.jobs.output_routes import router as job_output_router
from server.api.jobs.routes import router as jobs_router
from server.api.metrics.routes import router as metrics_router
from server.api.models.routes import router as models_router
from server.api.overview.routes import router as overview_router
from server.api.projects.backtest_routes import router as backtests_router
from server.api.projects.correction_routes import router as corrections_router
from server.api.projects.model_routes import router as project_models_router
from server.api.projects.routes import router as projects_router
from server.api.projects.run_routes import router as runs_router
from server.api.prompt.routes import router as prompt_router
from server.api.tasks.routes import router as tasks_router
from server.api.uploads.routes import router as uploads_router

api_router = APIRouter()
for _router in (
    prompt_router,
    tasks_router,
    models_router,
    adapters_router,
    uploads_router,
    jobs_router,
    job_classes_router,
    job_output_router,
    projects_router,
    corrections_router,
    runs_router,
    project_models_router,
    backtests_router,
    overview_router,
    health_router,
    metrics_router,
):
    api_router.include_router(_router)
