"""What the resource of projects takes."""

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)

from finetune.tuning.config import TuneConfig
from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from prompts.tasks import TASKS
from server.api.job_schemas import LARGEST
from server.store.projects.ensembles import EnsembleDefinition

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Number = Annotated[int, Path(alias="id", ge=1, le=LARGEST, description="The project's id.")]
Entry = Annotated[int, Path(alias="n", ge=1, le=LARGEST, description="The entry's id.")]
Id = Annotated[int, Field(ge=1, le=LARGEST, strict=True)]  # true and 1.0 name no model
Reason = Annotated[str, Field(max_length=2000)]


def _task(token: str) -> str:
    if token not in TASKS:
        raise ValueError(f"{token[:60]} is no task that can be taught; GET /v1/tasks lists them")
    return token


Task = Annotated[str, Field(max_length=100), AfterValidator(_task)]


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProjectRequest(_Taken):
    """What is to be learned."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "birds", "tasks": ["<OD>"]}]})

    name: str = Field(pattern=NAME, description="What prompts send as `project`.")
    tasks: list[Task] = Field(["<OD>"], min_length=1, max_length=20, description="What it teaches; /v1/tasks.")
    held_share: float = Field(
        0.2, gt=0, lt=1, allow_inf_nan=False, description="The share of its pictures that is never taught, to judge by."
    )


class CorrectionRequest(_Taken):
    """A picture, and all labels of one kind that are on it. The same picture again is the next version."""

    image: str | None = Field(None, description="The picture: base64, or a data URL.")
    annotations: list[Annotation] = Field(max_length=10_000, description="In the picture's pixels, as EXIF turns it.")
    kind: LabelKind | None = Field(
        None, description="objects: boxes and polygons; words: quads; captions: texts. None: what the annotations are."
    )
    complete: bool = Field(True, description="Whether everything of the kind that the picture shows is labelled.")
    name: str = Field("", max_length=1000, description="What the picture is called.")
    author: str = Field("", max_length=200, description="Who says so; empty: the API key's hash, or the address.")


class JobTaken(_Taken):
    """A job's labels as corrections, as they stand."""

    job: Id
    author: str = Field("", max_length=200, description="Who says so; empty: the API key's hash, or the address.")


def _start(value: Any, valid: ValidatorFunctionWrapHandler) -> Any:
    try:
        return valid(value)
    except ValidationError:
        raise ValueError("give the id of a model of this project, or champion") from None


# What the project decides: the model that is served is the base, and adapters are made. No client names a folder here.
_FIXED = ("base", "method", "start")
_SETTINGS: dict[str, Any] = {
    name: (field.annotation, field) for name, field in TuneConfig.model_fields.items() if name not in _FIXED
}
TuneRequest: type[BaseModel] = create_model(
    "TuneRequest",
    __doc__="The settings of a fine-tune; what is not given is as here. No tasks: the project's.",
    __config__=ConfigDict(extra="forbid", json_schema_extra={"examples": [{"steps": 200, "frozen_stages": 4}]}),
    **_SETTINGS,
    start=(
        Annotated[Id | Literal["champion"] | None, WrapValidator(_start)],
        Field(
            None,
            description="The model of this project to go on from, by its id, or `champion`: who answers now; null: "
            "from the base. rank, alpha and frozen_stages are then as that model was made.",
        ),
    ),
)


class CombineRequest(RootModel[EnsembleDefinition]):
    """A model that is made of others of the project and of one task."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"combine": "fuse", "models": [1, 2, None]}]})


class BacktestRequest(_Taken):
    """A model, to be tested against who answers for its task now."""

    model: Id
    probe: int = Field(
        40,
        ge=0,
        le=200,
        description="How many scenes of the seedling's own world it is asked about, all tasks, to tell what it has "
        "forgotten; of another base, at most so many pictures of the dataset that its run replayed. 40 scenes take "
        "tens of seconds without a GPU; 0: not asked.",
    )


class PromoteRequest(_Taken):
    """Who is to answer."""

    model: Id
    forced: bool = Field(False, description="Without a backtest that was won; `reason` says why, and it is logged.")
    reason: Reason = ""


class RollbackRequest(_Taken):
    """For what the one before is to answer again."""

    task: Task
    reason: Reason = ""
