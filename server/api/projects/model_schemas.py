"""Schemas of a project's models and promotions."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, RootModel

from server.api.projects.schemas import EntryId, Reason, StrictRequest, TaskToken
from server.api.timestamps import to_datetime
from server.store.projects.ensembles import EnsembleDefinition

if TYPE_CHECKING:
    from server.store.projects.records import ModelVersion, Promotion


class EnsembleRequest(RootModel[EnsembleDefinition]):
    """A model that combines other models of the project, all of one task."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"combine": "fuse", "models": [1, 2, None]}]})


class PromoteRequest(StrictRequest):
    """The model to promote."""

    model: EntryId = Field(description="The ID of the model.")
    forced: bool = Field(False, description="Promote it without a won backtest. Requires `reason`, which is logged.")
    reason: Reason = ""


class RollbackRequest(StrictRequest):
    """The task to roll back."""

    task: TaskToken
    reason: Reason = ""


class ProjectModelResponse(BaseModel):
    """A model of a project for one task: the adapter of a run, or an ensemble."""

    id: int
    run: int | None = Field(description="The run that trained it; null for an ensemble.")
    initial_model: int | None = Field(description="The model that its run started from; null: the base model.")
    ensemble: EnsembleDefinition | None = Field(description="How it combines other models; null for an adapter.")
    task: str
    sha256: str = Field(description="The hash of the adapter's weights, or of the ensemble with all its members.")
    dataset_hash: str = Field(description="The hash of the images and annotations of its run; empty for an ensemble.")
    metrics: dict[str, Any] = Field(description="The metrics of its run.")
    is_champion: bool = Field(description="Whether it answers prompts of its task.")
    created: datetime


class PromotionResponse(BaseModel):
    """A change of the champion of a task."""

    id: int
    task: str
    model: int | None = Field(description="The new champion; null: the base model.")
    backtest: int | None = Field(description="The backtest that it won.")
    is_rollback: bool
    forced: bool
    reason: str
    author: str
    created: datetime


class ProjectModelListResponse(BaseModel):
    """A page of models, and the newest promotions."""

    models: list[ProjectModelResponse]
    next: int | None = Field(description="`after` of the next page; null on the last page.")
    promotions: list[PromotionResponse] = Field(description="The newest 1000, oldest first.")


def create_model_response(model: "ModelVersion", *, is_champion: bool) -> ProjectModelResponse:
    """Returns the response for a model of a project."""
    return ProjectModelResponse(
        id=model.id,
        run=model.run_id,
        initial_model=model.initial_model_id,
        ensemble=model.ensemble,
        task=model.task,
        sha256=model.sha256,
        dataset_hash=model.dataset_hash,
        metrics=model.metrics,
        is_champion=is_champion,
        created=to_datetime(model.created),
    )


def create_promotion_response(promotion: "Promotion") -> PromotionResponse:
    """Returns the response for a promotion."""
    return PromotionResponse(
        id=promotion.id,
        task=promotion.task,
        model=promotion.model_id,
        backtest=promotion.backtest_id,
        is_rollback=promotion.is_rollback,
        forced=promotion.forced,
        reason=promotion.reason,
        author=promotion.author,
        created=to_datetime(promotion.created),
    )
