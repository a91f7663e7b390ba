"""What projects keep, as it is taken and given."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from server.store import StoreError
from server.store.projects.ensembles import EnsembleDefinition

ENOUGH = 10
"""Held-out pictures: of fewer the bootstrap draws too few different samples for its interval to mean anything."""


class RunState(StrEnum):
    """Where a run or a backtest stands. Failed runs can be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (RunState.DONE, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Project:
    """`base`: SHA-256 of the weights that its adapters stand on; `tasks`: tokens that it teaches; `held_share`: of its
    pictures, that are never taught; `folder`: of its files. Times are seconds since 1970, here and below."""

    id: int
    name: str
    base: str
    tasks: tuple[str, ...]
    held_share: float
    folder: str
    created: float


@dataclass(frozen=True, slots=True)
class CorrectionContent:
    """A picture and all labels of one kind that a person left on it. `picture`: SHA-256 of its file; `complete`:
    whether all that it shows of the kind is labelled; `name`: what its owner calls it; `author`: who says so."""

    picture: str
    kind: LabelKind
    width: int
    height: int
    annotations: tuple[Annotation, ...]
    complete: bool = True
    name: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """One as it is kept; `version` counts from 1, and the highest counts."""

    id: int
    version: int
    created: float
    said: CorrectionContent


@dataclass(frozen=True, slots=True)
class Run:
    """A fine-tune. `config`: of TuneConfig's fields, but that `start` is the id of the model that it went on from, or
    empty; `data`: the hash of what is `taught` and `held` out, so many pictures; `metrics`: what came of it; `reason`:
    why it failed."""

    id: int
    config: dict[str, Any]
    folder: str
    data: str
    taught: int
    held: int
    state: RunState
    reason: str
    metrics: dict[str, Any]
    author: str
    created: float
    started: float | None
    ended: float | None

    @property
    def start(self) -> int | None:
        """The model that it went on from; None: the base."""
        return self.config.get("start") or None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An entry of the registry, for one task: what a run made, or what is `combined` of other models, without a run.
    `sha256`: of the adapter's weights, or of all that answers; `folder`: of its adapter, within the project's, empty
    where its members have one each; `data`, `metrics` and `start`, the model that it went on from, are the run's."""

    id: int
    run: int | None
    task: str
    sha256: str
    folder: str
    data: str
    metrics: dict[str, Any]
    created: float
    combined: EnsembleDefinition | None = None
    start: int | None = None


@dataclass(frozen=True, slots=True)
class BacktestImage:
    """One held-out picture in a backtest: corrections by kind and labels, as `Tally` has them, of either side."""

    picture: str
    champion: tuple[int, ...]
    challenger: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BacktestResult:
    """Corrections per 100 labels of both; the 95 % interval of challenger less champion; how likely the challenger is
    the better one."""

    champion: float
    challenger: float
    low: float
    high: float
    better: float


@dataclass(frozen=True, slots=True)
class Backtest:
    """A model against the champion of its time (None: the base alone). `data`: the hash of the held-out pictures and
    their labels; `forgetting`: what the model has `lost`, by task token, and `what` that is, told by how many `scenes`
    or `pictures` of the base's own world; or the `reason` why nothing tells it. Before, how many the `probe` may take;
    empty where there is to be none."""

    id: int
    challenger: int
    champion: int | None
    data: str
    state: RunState
    reason: str
    author: str
    created: float
    ended: float | None
    tallies: tuple[BacktestImage, ...] = ()
    figures: BacktestResult | None = None
    forgetting: dict[str, Any] = field(default_factory=dict)

    @property
    def won(self) -> bool:
        """Fewer corrections, by more than luck, and on enough pictures to tell."""
        return self.figures is not None and self.figures.high < 0 and len(self.tallies) >= ENOUGH


@dataclass(frozen=True, slots=True)
class Promotion:
    """From then on `model` (None: the base alone) answers for the task. `back`: it was a rollback."""

    id: int
    task: str
    model: int | None
    backtest: int | None
    back: bool
    forced: bool
    reason: str
    author: str
    created: float


class NotFoundError(StoreError):  # noqa: N818
    """There is no such project, run, model or backtest."""


class NameTakenError(StoreError):  # noqa: N818
    """A project of this name is there."""


class BaseMismatchError(StoreError):  # noqa: N818
    """A project whose adapters stand on other weights than those that are served."""

    def __init__(self, project: str, base: str, served: str) -> None:
        super().__init__(
            f"the project {project} stands on the weights {base}, and this server has {served}; serve its own base, or "
            "make a project for this one"
        )


class NoTrainingDataError(StoreError):  # noqa: N818
    """Too little is corrected; the message says what is missing."""


class InitialModelError(StoreError):  # noqa: N818
    """A model that this fine-tune cannot go on from; the message says what can be done."""


class PromotionNotEarnedError(StoreError):  # noqa: N818
    """A promotion without a backtest that was won."""


class NothingPromotedError(StoreError):  # noqa: N818
    """A rollback of nothing."""
