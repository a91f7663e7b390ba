"""Routes that tell whether the server is alive and ready. They need no API key: orchestrators have none."""

from fastapi import APIRouter

from server.api.deps import EngineDep, LifecycleDep
from server.api.health.schemas import HealthResponse
from server.api.problems import BUSY, DATABASE_UNAVAILABLE, NOT_READY, document_problems

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Check that the server is alive")
async def check_liveness() -> HealthResponse:
    """Answers 200 as soon as the process serves HTTP, also while the model loads."""
    return HealthResponse(status="alive")


@router.get(
    "/readyz",
    summary="Check that the server is ready",
    responses=document_problems(*NOT_READY, BUSY, DATABASE_UNAVAILABLE),
)
async def check_readiness(lifecycle: LifecycleDep, _: EngineDep) -> HealthResponse:
    """Answers 200 when the model is loaded and the server accepts prompts. Otherwise answers 503: while the model
    loads, if it failed to load, while the server shuts down, while no image can be decoded, and while the database of
    jobs and projects does not answer."""
    lifecycle.check_decoders()
    await lifecycle.check_database()
    return HealthResponse(status="ready")
