"""Whether the server lives, and whether it can answer. Open to all: orchestrators carry no keys."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from server.api.problems import LOADING, NO_MODEL, SHUTTING_DOWN, documented

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: Literal["alive", "ready"]


@router.get("/healthz")
async def healthz() -> Health:
    """The process lives and its event loop turns."""
    return Health(status="alive")


@router.get("/readyz", responses=documented(LOADING, NO_MODEL, SHUTTING_DOWN))
async def readyz(request: Request) -> Health:
    """The model is loaded and new prompts are taken; a problem with status 503 until then, and while shutting down."""
    request.app.state.serving.engine()
    return Health(status="ready")
