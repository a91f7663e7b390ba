"""Schemas of fine-tune runs."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)

from finetune.tuning.config import TuneConfig
from server.api.model_names import get_public_name
from server.api.parameters import MAX_ID
from server.api.projects.schemas import EntryId
from server.api.timestamps import to_datetime
from server.store.projects.records import OPEN_STATES, ExecutionState

if TYPE_CHECKING:
    from server.store.projects.records import Run

RunId = Annotated[int, Path(ge=1, le=MAX_ID, description="The ID of the run.")]
# The project decides these: the base is the model of the server, and runs train adapters. Clients cannot name folders.
_FIXED_SETTINGS = ("base", "method", "start_adapter")
assert set(_FIXED_SETTINGS) <= TuneConfig.model_fields.keys()  # a renamed setting must not become public


def _check_initial_model(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        raise ValueError("give the ID of a model of this project, or champion") from None


_SETTINGS: dict[str, Any] = {
    name: (field.annotation, field) for name, field in TuneConfig.model_fields.items() if name not in _FIXED_SETTINGS
}
RunRequest: type[BaseModel] = create_model(
    "RunRequest",
    __doc__="The settings of a fine-tune run. Settings that are left out have the defaults below. No tasks: those of "
    "the project.",
    __config__=ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [{"steps": 200}]}),
    **_SETTINGS,
    initial_model=(
        Annotated[EntryId | Literal["champion"] | None, WrapValidator(_check_initial_model)],
        Field(
            None,
            description="The model to start from: the ID of a model of this project, or `champion`; null: the base "
            "model. lora_rank, lora_alpha and frozen_stages are then those of that model.",
        ),
    ),
    keep=(bool, Field(False, strict=True, description="Whether a run that gains nothing creates models too.")),
)


class RunSummaryResponse(BaseModel):
    """A fine-tune run without its settings, in events."""

    id: int
    state: ExecutionState = Field(
        description="A failed run can be cancelled. It can be resumed if it has created no models; models always stay. "
        "`no-gain`: it has ended, and its best step is not surely better than its start on the validation images."
    )
    reason: str = Field(
        description="Why the run failed, empty after it is resumed or cancelled; of a run without a gain, what to try."
    )
    progress: dict[str, Any] | None = Field(
        description="The newest entry of its log: the step, the losses, the validation metric, and `left_out`, how "
        "often a sample was too long for the model, if any was."
    )
    seconds_left: float | None = Field(
        description="The time left, with validations, measured in this run; null before the first steps and at its end."
    )
    metrics: dict[str, Any] = Field(
        description="The validation metric `before` training and of the `best` trained step (`best_step`); null if "
        "there are too few images for validation. `gain`: its `value`, the `confidence` from 0 to 1 that it is no "
        "luck, and whether the run has `gained`. `left_out`: how often a sample was too long for the model, and "
        "`left_out_examples`: the first of these samples, by image and task."
    )
    models: list[int] = Field(
        description="The models that it created, one for each task. If the loss became NaN or Inf, the best until then."
    )


class RunClassResponse(BaseModel):
    """A class of a run."""

    name: str
    images: int = Field(description="The training images that show it. With fewer than ten, expect mistakes.")
    objects: int = Field(description="Its objects in them.")
    known: bool | None = Field(
        description="Whether the base model knows it: the seedling's own classes; for other models those that they "
        "find in the validation images. null: it cannot be told."
    )
    found: tuple[int, int] | None = Field(
        description="How many of its objects the start finds in the validation images, and how many there are."
    )


class RunResponse(RunSummaryResponse):
    """A fine-tune run."""

    initial_model: int | None = Field(description="The model that it started from; null: the base model.")
    config: dict[str, Any] = Field(description="All settings.")
    dataset_hash: str = Field(description="The hash of all images and their annotations.")
    train_images: int = Field(description="The number of training images.")
    holdout_images: int = Field(description="The number of holdout images.")
    classes: list[RunClassResponse] = Field(
        description="The classes of its images, the most frequent first; empty before it has read them."
    )
    author: str
    created: datetime
    started: datetime | None
    ended: datetime | None


class RunListResponse(BaseModel):
    """A page of runs."""

    runs: list[RunResponse]
    next: int | None = Field(description="`after` of the next page; null on the last page.")


def create_run_response(
    run: "Run", progress: dict[str, Any] | None, models: list[int], classes: list[dict[str, Any]]
) -> RunResponse:
    """Returns the response for a run. `models`: IDs of the models that it created; `classes`: from `read_classes`."""
    progress = dict(progress) if progress else None
    seconds_left = progress.pop("seconds_left", None) if progress else None
    return RunResponse(
        id=run.id,
        state=run.state,
        reason=run.reason,
        initial_model=run.initial_model_id,
        config={**run.config, "base": get_public_name(run.config["base"])},
        dataset_hash=run.dataset_hash,
        train_images=run.train_images,
        holdout_images=run.holdout_images,
        classes=[RunClassResponse(**each) for each in classes],
        progress=progress,
        seconds_left=seconds_left if run.state in OPEN_STATES else None,
        metrics=run.metrics,
        models=models,
        author=run.author,
        created=to_datetime(run.created),
        started=to_datetime(run.started),
        ended=to_datetime(run.ended),
    )


def summarize_run(run: RunResponse) -> RunSummaryResponse:
    """Returns what events contain of a run."""
    fields = {name: getattr(run, name) for name in RunSummaryResponse.model_fields}
    fields["metrics"] = {name: value for name, value in run.metrics.items() if name != "left_out_examples"}
    return RunSummaryResponse(**fields)
