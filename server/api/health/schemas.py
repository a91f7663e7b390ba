"""Schemas of the health resource."""

from typing import Literal

from pydantic import BaseModel


class HealthResponse(BaseModel):
    """The state of the server."""

    status: Literal["alive", "ready"]
