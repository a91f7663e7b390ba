"""Definitions of models that are built from other models of the same project and task, in requests and in the store."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_MEMBERS = 8  # every member answers every prompt
MAX_ROUTES = 2000
ModelId = Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)]
AdapterWeight = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
MemberWeight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class _Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSum(_Definition):
    """One adapter that changes the base model by the weighted sum of the models' changes, exactly. A negative weight
    removes what a model has learned. A single model with a weight below 1 is between that model and the base model."""

    combine: Literal["add"]
    models: tuple[ModelId, ...] = Field(min_length=1, max_length=MAX_MEMBERS)
    weights: tuple[AdapterWeight, ...] = Field(
        (), max_length=MAX_MEMBERS, description="One per model. Default: equal weights with sum 1."
    )

    @model_validator(mode="after")
    def _check_definition(self) -> Self:
        _check_unique(self.models)
        _check_count(self.models, self.weights)
        if 0 in self.weights:
            raise ValueError("a weight of 0 has no effect; leave its model out")
        return self

    @property
    def effective_weights(self) -> tuple[float, ...]:
        """The weight of each model."""
        return self.weights or (1 / len(self.models),) * len(self.models)


class BoxFusion(_Definition):
    """All models answer. Overlapping boxes with the same label become one box, their weighted mean (weighted box
    fusion). Boxes that few models agree on get a lower score."""

    combine: Literal["fuse"]
    models: tuple[ModelId | None, ...] = Field(
        min_length=2, max_length=MAX_MEMBERS, description="null: the base model."
    )
    weights: tuple[MemberWeight, ...] = Field(
        (), max_length=MAX_MEMBERS, description="How much each model counts. Default: all the same."
    )
    iou_threshold: float = Field(
        0.55, gt=0, lt=1, allow_inf_nan=False, description="Boxes with at least this IoU show the same object."
    )
    min_score: float = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="Fused boxes with a lower score are dropped."
    )

    @model_validator(mode="after")
    def _check_definition(self) -> Self:
        _check_unique(self.models)
        _check_count(self.models, self.weights)
        return self

    @property
    def member_ids(self) -> tuple[int | None, ...]:
        """The models that answer; None is the base model."""
        return self.models


class LabelRouting(_Definition):
    """All models answer. The annotations of each label are taken from the model that is best at this label."""

    combine: Literal["route"]
    models: tuple[ModelId | None, ...] = Field(
        min_length=1, max_length=MAX_MEMBERS, description="null: the base model."
    )
    routes: dict[Annotated[str, Field(min_length=1, max_length=200)], ModelId | None] = Field(
        min_length=1, max_length=MAX_ROUTES, description="Label → the model that its annotations are taken from."
    )
    default: ModelId | None = Field(None, description="The model for all other labels. null: the base model.")

    @model_validator(mode="after")
    def _check_definition(self) -> Self:
        _check_unique(self.models)
        used = {*self.routes.values(), self.default}
        if unknown := used - {*self.models, None}:
            raise ValueError(f"{describe_model(min(filter(None, unknown)))} has labels, but is not one of the models")
        if unused := [model for model in self.models if model not in used]:
            raise ValueError(f"{describe_model(unused[0])} has no label; give it one, or leave it out")
        if len(used) == 1:
            raise ValueError(f"{describe_model(self.default)} has all labels; there is nothing to combine")
        return self

    @property
    def member_ids(self) -> tuple[int | None, ...]:
        """The models that answer; None is the base model."""
        needs_base = None in {*self.routes.values(), self.default} and None not in self.models
        return (*self.models, None) if needs_base else self.models


EnsembleDefinition = Annotated[AdapterSum | BoxFusion | LabelRouting, Field(discriminator="combine")]


def describe_model(model_id: int | None) -> str:
    """Returns the name of a model in messages."""
    return "the base model" if model_id is None else f"model {model_id}"


def _check_unique(models: Sequence[int | None]) -> None:
    if repeated := [model for i, model in enumerate(models) if model in models[:i]]:
        raise ValueError(f"{describe_model(repeated[0])} appears twice; name it once")


def _check_count(models: Sequence[int | None], weights: Sequence[float]) -> None:
    if weights and len(weights) != len(models):
        raise ValueError(f"{len(models)} models need {len(models)} weights, not {len(weights)}")
