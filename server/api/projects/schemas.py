"""Schemas of the projects resource."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prompts.tasks import TASKS
from server.api.parameters import MAX_ID
from server.api.timestamps import to_datetime

if TYPE_CHECKING:
    from server.store.projects.records import Project

PROJECT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
EntryId = Annotated[int, Field(ge=1, le=MAX_ID, strict=True)]  # strict: true and 1.0 are not IDs
Reason = Annotated[str, Field(max_length=2000)]


def _check_task(token: str) -> str:
    if token not in TASKS:
        raise ValueError(f"{token[:60]} is not a task that can be trained; GET /v1/tasks lists them")
    return token


TaskToken = Annotated[str, Field(max_length=100), AfterValidator(_check_task)]


class StrictRequest(BaseModel):
    """The base class of requests: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ProjectRequest(StrictRequest):
    """A new project."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "birds", "tasks": ["<OD>"]}]})

    name: str = Field(pattern=PROJECT_NAME, description="What prompts send as `project`.")
    tasks: list[TaskToken] = Field(
        ["<OD>"], min_length=1, max_length=20, description="The tasks to train, of GET /v1/tasks."
    )
    holdout_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="The share of its images that is never used for training. Backtests use them.",
    )


class ProjectResponse(BaseModel):
    """A project."""

    id: int
    name: str
    base_sha256: str = Field(description="SHA-256 of the model weights that its adapters belong to.")
    served: bool = Field(description="Whether the server runs a model with these weights.")
    tasks: list[str]
    holdout_share: float
    images: int = Field(description="The number of corrected images.")
    created: datetime


class ProjectListResponse(BaseModel):
    """A page of projects."""

    projects: list[ProjectResponse]
    next: int | None = Field(description="`after` of the next page; null on the last page.")


def create_project_response(project: "Project", served_sha256: str, images: int) -> ProjectResponse:
    """Returns the response for a project. `served_sha256`: of the server's model; `images`: the number of corrected
    ones."""
    return ProjectResponse(
        id=project.id,
        name=project.name,
        base_sha256=project.base_sha256,
        served=project.base_sha256 == served_sha256,
        tasks=list(project.tasks),
        holdout_share=project.holdout_share,
        images=images,
        created=to_datetime(project.created),
    )
