"""Errors of projects, besides those of their store. Each message says what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.store import StoreError

INTERNAL_REASON = "an internal error; the server's log contains it"
"""The reason of a failure that nobody has foreseen. Clients get no traces and no paths."""


class BaseMismatchError(StoreError):
    """The project's adapters belong to other model weights than the server's. Jobs handle it like other StoreErrors."""

    def __init__(self, project: str, project_base: str, server_base: str) -> None:
        super().__init__(
            f"project {project} is based on the weights {project_base}, and this server has {server_base}: serve the "
            "project's weights, or create a project for these"
        )


class ProjectError(Exception):
    """The base class of the other errors."""


class TrainingNotInstalledError(ProjectError):
    """The server lacks the packages that a fine-tune run needs. It can do everything else with projects."""


class InvalidClassListError(ProjectError):
    """A project cannot declare these classes."""


class NoTrainingDataError(ProjectError):
    """The corrections are not enough for a fine-tune run."""


class InitialModelError(ProjectError):
    """A fine-tune run cannot start from this model."""


class BacktestNotPossibleError(ProjectError):
    """Something that the backtest needs is missing."""


class ForgettingNotMeasurableError(ProjectError):
    """There are no images to measure forgetting on."""


class InvalidEnsembleError(ProjectError):
    """These models cannot be combined. `field` is the invalid field of the definition."""

    def __init__(self, message: str, field: str = "models") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class AnnotationProblem:
    """What is wrong with an annotation. `index`: its position; None for all of them together."""

    index: int | None
    reason: str


class InvalidAnnotationsError(ProjectError):
    """Annotations that cannot be used for training, with one problem per annotation."""

    def __init__(self, problems: Sequence[AnnotationProblem]) -> None:
        super().__init__(
            "; ".join(
                problem.reason if problem.index is None else f"annotation {problem.index}: {problem.reason}"
                for problem in problems
            )
        )
        self.problems = list(problems)
