"""The records that the stores of projects take and return. All times are Unix timestamps in seconds."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from labels.label_kind import LabelKind
from prompts.annotations import Annotation
from prompts.class_lists import ClassList
from server.store.projects.ensembles import EnsembleDefinition

MIN_HOLDOUT_IMAGES = 10
"""On fewer images, the bootstrap draws too few different samples for a meaningful interval."""


class ExecutionState(StrEnum):
    """The state of a fine-tune run or of a backtest. A failed run can be resumed.

    `NO_GAIN`: a run that has ended, whose best step is not better than its start. Backtests never have it.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    NO_GAIN = "no-gain"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED_STATES = (ExecutionState.DONE, ExecutionState.NO_GAIN, ExecutionState.FAILED, ExecutionState.CANCELLED)
OPEN_STATES = (ExecutionState.QUEUED, ExecutionState.RUNNING)


@dataclass(frozen=True, slots=True)
class Project:
    """A project: corrected images, and the models that are fine-tuned on them.

    Attributes:
        base_sha256: Hash of the model weights that its adapters belong to.
        tasks: Tokens of the tasks that it trains.
        holdout_share: Share of its images that are never used for training.
        folder: Name of its folder in the projects folder.
        classes: The classes that it declares; empty if it declares none.
    """

    id: int
    name: str
    base_sha256: str
    tasks: tuple[str, ...]
    holdout_share: float
    folder: str
    created: float
    classes: tuple[str, ...] = ()

    @property
    def class_list(self) -> ClassList | None:
        """The classes that answers and corrections are held to; None if it declares none."""
        return ClassList(self.classes, f"project {self.name}") if self.classes else None


@dataclass(frozen=True, slots=True)
class CorrectionContent:
    """An image with all its annotations of one kind, as a person corrected them.

    Attributes:
        image_sha256: Hash of the image file.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        complete: Whether every object of this kind in the image is annotated.
        image_name: The client's name for the image.
        author: Who made the correction.
    """

    image_sha256: str
    label_kind: LabelKind
    width: int
    height: int
    annotations: tuple[Annotation, ...]
    complete: bool = True
    image_name: str = ""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """A stored correction. Versions of one image and kind count from 1; the highest is the current one.

    Attributes:
        withdrawn: Whether this version takes back the one before. The image then counts as not corrected for its kind.
    """

    id: int
    version: int
    created: float
    content: CorrectionContent
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A fine-tune run.

    Attributes:
        initial_model_id: The model that the run starts from; None for the base model.
        config: The settings, fields of TuneConfig.
        folder: Path of its files, relative to the project's folder.
        dataset_hash: Hash of the training and holdout images and their annotations.
        train_images: Number of training images.
        holdout_images: Number of holdout images.
        reason: Why the run failed, or what to try after one without a gain; empty otherwise.
        metrics: The result of the run.
    """

    id: int
    initial_model_id: int | None
    config: dict[str, Any]
    folder: str
    dataset_hash: str
    train_images: int
    holdout_images: int
    state: ExecutionState
    reason: str
    metrics: dict[str, Any]
    author: str
    created: float
    started: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model for one task: the adapter of a run, or an ensemble of other models.

    Attributes:
        run_id: The run that trained it; None for an ensemble.
        sha256: Hash of the adapter's weights, or of the ensemble with all its members.
        folder: Path of its adapter, relative to the project's folder; empty if only its members have adapters.
        dataset_hash: Dataset hash of the run; empty for an ensemble.
        metrics: Metrics of the run; empty for an ensemble.
        ensemble: How it is built from other models; None for the adapter of a run.
        initial_model_id: The model that its run started from; None for the base model.
    """

    id: int
    run_id: int | None
    task: str
    sha256: str
    folder: str
    dataset_hash: str
    metrics: dict[str, Any]
    created: float
    ensemble: EnsembleDefinition | None = None
    initial_model_id: int | None = None


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """One holdout image of a backtest: the numbers of corrections by kind, then of labels, for both models."""

    image_sha256: str
    champion: tuple[int, ...]
    challenger: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The result of a backtest.

    Attributes:
        champion: Corrections per 100 labels of the champion.
        challenger: Corrections per 100 labels of the challenger.
        low: Lower end of the 95 % interval of challenger minus champion.
        high: Upper end of that interval.
        probability_better: Probability that the challenger needs fewer corrections.
    """

    champion: float
    challenger: float
    low: float
    high: float
    probability_better: float


@dataclass(frozen=True, slots=True)
class Backtest:
    """A challenger against the champion of that time, on the holdout images.

    Attributes:
        champion_id: None for the base model.
        dataset_hash: Hash of the holdout images and their annotations.
        reason: Why the backtest failed; empty otherwise.
        forgetting: Before the end of the backtest, `forgetting_images`, the maximum number of images of the forgetting
            evaluation; empty without an evaluation. After the end, the result, or the `reason` why there is none.
    """

    id: int
    challenger_id: int
    champion_id: int | None
    dataset_hash: str
    state: ExecutionState
    reason: str
    author: str
    created: float
    ended: float | None
    image_counts: tuple[ImageCounts, ...] = ()
    comparison: PairedComparison | None = None
    forgetting: dict[str, Any] = field(default_factory=dict)

    @property
    def won(self) -> bool:
        """Whether the challenger needs significantly fewer corrections, on enough images."""
        is_better = self.comparison is not None and self.comparison.high < 0
        return is_better and len(self.image_counts) >= MIN_HOLDOUT_IMAGES


@dataclass(frozen=True, slots=True)
class Promotion:
    """A change of the model that answers prompts of a task.

    Attributes:
        model_id: The model that answers from then on; None for the base model.
        backtest_id: The backtest that it won.
        is_rollback: Whether the change went back to the previous model.
        forced: Whether the model was promoted without a backtest that it won.
    """

    id: int
    task: str
    model_id: int | None
    backtest_id: int | None
    is_rollback: bool
    forced: bool
    reason: str
    author: str
    created: float
