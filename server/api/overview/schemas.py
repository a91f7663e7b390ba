"""Schemas of the overview."""

from pydantic import BaseModel, Field


class OverviewResponse(BaseModel):
    """What this server can do."""

    version: str = Field(description="The version of florist.")
    model: str = Field(description="The model that it serves; GET /v1/models describes it.")
    jobs: bool = Field(description="Whether it runs jobs.")
    projects: bool = Field(description="Whether it has projects: corrections, promoted models, backtests.")
    tuning: bool = Field(description="Whether it can also tune: it has projects, and the packages for training.")
    tuning_needs: list[str] = Field(
        description="The packages that the operator has to install before it can tune; empty if there are none."
    )
