"""How a model is made of others of its project and task: their adapters added up, or their answers combined."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finetune.ensembling import fuse, route
from prompts.annotations import Annotation
from prompts.tasks import TASKS, Gives

_MOST = 8  # models of one: each of them answers every prompt
Id = Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)]
Share = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Trust = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class InvalidEnsembleError(ValueError):  # noqa: N818
    """Models that make none together; `field` names what of the combination is at fault."""

    def __init__(self, message: str, field: str = "models") -> None:
        super().__init__(message)
        self.field = field


class _Combined(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSum(_Combined):
    """One adapter, whose change of the base is the weighted sum of theirs, exactly. A negative weight unlearns, and one
    model at a weight below 1 lies between it and the base."""

    combine: Literal["add"]
    models: tuple[Id, ...] = Field(min_length=1, max_length=_MOST)
    weights: tuple[Share, ...] = Field((), max_length=_MOST, description="One a model; none: each the same, 1 in sum.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _check_once(self.models)
        _check_count(self.models, self.weights)
        if 0 in self.weights:
            raise ValueError("a weight of 0 adds nothing; leave its model out")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Each model's weight."""
        return self.weights or (1 / len(self.models),) * len(self.models)

    def check(self, task: str) -> None:
        """Any task's adapters can be added up."""


class BoxFusion(_Combined):
    """All of them answer, and boxes of one label that overlap become their mean (weighted box fusion); what few of them
    say loses score."""

    combine: Literal["fuse"]
    models: tuple[Id | None, ...] = Field(min_length=2, max_length=_MOST, description="null: the base alone.")
    weights: tuple[Trust, ...] = Field((), max_length=_MOST, description="How far each is trusted; none: all the same.")
    overlap: float = Field(
        0.55, gt=0, lt=1, allow_inf_nan=False, description="The IoU from which two are of one thing."
    )
    min_score: float = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="What scores less once it is fused is left out."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _check_once(self.models)
        _check_count(self.models, self.weights)
        return self

    @property
    def members(self) -> tuple[int | None, ...]:
        """Who is asked; None: the base alone."""
        return self.models

    def check(self, task: str) -> None:
        """Raises CannotCombine for a task whose answers it cannot combine."""
        if TASKS[task].gives not in (Gives.BOXES, Gives.PHRASES):
            raise InvalidEnsembleError(f"{task} gives {TASKS[task].gives}, and only boxes can be fused", "combine")

    def merged(self, answers: Sequence[Sequence[Annotation]]) -> Sequence[Annotation]:
        """What the members' answers make together."""
        return [box for box in fuse(answers, self.weights, self.overlap) if (box.score or 0.0) >= self.min_score]


class LabelRouting(_Combined):
    """All of them answer, and of each label what the model says that is best at it."""

    combine: Literal["route"]
    models: tuple[Id | None, ...] = Field(min_length=1, max_length=_MOST, description="null: the base alone.")
    routes: dict[Annotated[str, Field(min_length=1, max_length=200)], Id | None] = Field(
        min_length=1, max_length=2000, description="Label: the model that answers for it."
    )
    default: Id | None = Field(None, description="Who answers for all other labels; null: the base alone.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _check_once(self.models)
        asked = {*self.routes.values(), self.default}
        if unknown := asked - {*self.models, None}:
            raise ValueError(f"{_name(min(filter(None, unknown)))} answers for labels, but is none of the models")
        if idle := [model for model in self.models if model not in asked]:
            raise ValueError(f"{_name(idle[0])} answers for no label; give it one, or leave it out")
        if len(asked) == 1:
            raise ValueError(f"{_name(self.default)} answers for all labels; there is nothing to combine")
        return self

    @property
    def members(self) -> tuple[int | None, ...]:
        """Who is asked; None: the base alone."""
        base = None in {*self.routes.values(), self.default} and None not in self.models
        return (*self.models, None) if base else self.models

    def check(self, task: str) -> None:
        """Raises CannotCombine for a task whose answers it cannot combine."""
        if TASKS[task].gives not in (Gives.BOXES, Gives.PHRASES, Gives.ANY):
            raise InvalidEnsembleError(f"{task} gives {TASKS[task].gives}, which have no labels to go by", "combine")

    def merged(self, answers: Sequence[Sequence[Annotation]]) -> Sequence[Annotation]:
        """What the members' answers make together."""
        by_name = {_name(member): answer for member, answer in zip(self.members, answers, strict=True)}
        routes = {label: _name(member) for label, member in self.routes.items()}
        return route(by_name, routes, _name(self.default))


EnsembleDefinition = Annotated[AdapterSum | BoxFusion | LabelRouting, Field(discriminator="combine")]


def _name(model: int | None) -> str:
    return "the base" if model is None else f"model {model}"


def _check_once(models: Sequence[int | None]) -> None:
    if twice := [model for i, model in enumerate(models) if model in models[:i]]:
        raise ValueError(f"{_name(twice[0])} is there twice; name it once")


def _check_count(models: Sequence[int | None], weights: Sequence[float]) -> None:
    if weights and len(weights) != len(models):
        raise ValueError(f"{len(models)} models need as many weights, not {len(weights)}")
