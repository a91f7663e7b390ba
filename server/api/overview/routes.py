"""The route that tells what the server can do."""

from importlib.metadata import version

from fastapi import APIRouter

from labels.extras import find_missing
from server.api.auth import KeyRequired
from server.api.deps import SettingsDep
from server.api.model_names import get_public_name
from server.api.overview.schemas import OverviewResponse
from server.api.problems import UNAUTHORIZED, document_problems
from server.projects.training_packages import TRAINING_EXTRA

router = APIRouter(tags=["overview"], dependencies=[KeyRequired], responses=document_problems(UNAUTHORIZED))


@router.get("/v1", summary="Get what the server can do")
async def get_overview(settings: SettingsDep) -> OverviewResponse:
    """Returns the version, and which parts the server has: its settings enable jobs and projects, and its packages
    tuning. GET /readyz tells whether they are ready."""
    has_jobs = settings.jobs_folder is not None
    has_projects = has_jobs and settings.projects_folder is not None
    missing = find_missing(TRAINING_EXTRA)
    return OverviewResponse(
        version=version("florist"),
        model=get_public_name(settings.model),
        jobs=has_jobs,
        projects=has_projects,
        tuning=has_projects and not missing,
        tuning_needs=missing,
    )
