"""Schemas of the projects resource."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prompts.label_lists import MAX_LABEL_BYTES, MAX_LABELS, MAX_LIST_BYTES
from prompts.tasks import TASKS
from server.api.parameters import MAX_ID, Name
from server.api.timestamps import to_datetime

if TYPE_CHECKING:
    from server.projects.class_lists import OutsideClass
    from server.store.projects.records import Project

MAX_OUTSIDE = 100  # classes in one response
_MAX_NAMED = 10  # of them in a sentence
EntryId = Annotated[int, Field(ge=1, le=MAX_ID, strict=True)]  # strict: true and 1.0 are not IDs
Reason = Annotated[str, Field(max_length=2000)]


def _check_task(token: str) -> str:
    if token not in TASKS:
        raise ValueError(f"{token[:60]} is not a task that can be trained; GET /v1/tasks lists them")
    return token


TaskToken = Annotated[str, Field(max_length=100), AfterValidator(_check_task)]


ClassNames = Annotated[
    list[str],
    Field(
        max_length=MAX_LABELS,
        description="Its classes: answers to `<OD>` and `<REGION_TO_CATEGORY>` are held to them, and corrected objects "
        f"must have one of them. Up to {MAX_LABEL_BYTES} bytes each in UTF-8, and {MAX_LIST_BYTES:,} together. None: "
        "corrections are free, and answers are held to the classes that the adapter was trained on.",
    ),
]


class StrictRequest(BaseModel):
    """The base class of requests: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class ProjectRequest(StrictRequest):
    """A new project."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "birds", "tasks": ["<OD>"]}]})

    name: Name = Field(description="What prompts send as `project`.")
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
    classes: ClassNames = []


class ProjectChanges(StrictRequest):
    """What to change of a project."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"classes": ["robin", "sparrow", "wren"]}]})

    classes: ClassNames = Field(description="The whole new list, in place of the one before. Empty: declare none.")


class ProjectResponse(BaseModel):
    """A project."""

    id: int
    name: str
    base_sha256: str = Field(description="SHA-256 of the model weights that its adapters belong to.")
    served: bool = Field(description="Whether the server runs a model with these weights.")
    tasks: list[str]
    holdout_share: float
    classes: list[str] = Field(
        description="The classes that answers and corrected objects are held to. Empty: it declares none."
    )
    images: int = Field(description="The number of corrected images.")
    created: datetime


class OutsideClassResponse(BaseModel):
    """A class of current corrections that the project does not declare."""

    name: str
    annotations: int = Field(description="The number of annotations with it.")
    images: int = Field(description="The number of images with such annotations.")


class ChangedProjectResponse(ProjectResponse):
    """A project after a change."""

    outside: list[OutsideClassResponse] = Field(
        description="Classes of current corrections that the new list does not have, the most frequent first, at most "
        f"{MAX_OUTSIDE}. The corrections keep these annotations. Runs and backtests that start from now on leave them "
        "out, until the classes are in the list again."
    )
    warnings: list[str] = Field(description="What the change means for existing corrections, in a sentence.")


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
        classes=list(project.classes),
        images=images,
        created=to_datetime(project.created),
    )


def create_changed_response(project: ProjectResponse, outside: "Sequence[OutsideClass]") -> ChangedProjectResponse:
    """Returns the response for a changed project, with what its corrections have outside of its classes."""
    listed = [
        OutsideClassResponse(name=each.name, annotations=each.annotations, images=each.images)
        for each in outside[:MAX_OUTSIDE]
    ]
    warnings = []
    if outside:
        names = ", ".join(f"{each.name[:60]} ({each.annotations})" for each in outside[:_MAX_NAMED])
        more = f" and {len(outside) - _MAX_NAMED} more" if len(outside) > _MAX_NAMED else ""
        warnings.append(
            f"{sum(each.annotations for each in outside)} annotations of current corrections have classes outside of "
            f"the list: {names}{more}. The corrections keep them; runs and backtests that start from now on leave them "
            "out. To use them again, add their classes to the list."
        )
    return ChangedProjectResponse(**dict(project), outside=listed, warnings=warnings)
