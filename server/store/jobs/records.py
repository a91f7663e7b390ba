"""The records that the job store takes and returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from labels.dropped_labels import DroppedLabel
from labels.labeled_image import TracedAnnotation
from server.store.errors import StoreError

MAX_NAMES = 20  # of each kind of change


class JobState(StrEnum):
    """The state of a job. Paused and failed jobs can be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"
    FAILED = "failed"


class ImageState(StrEnum):
    """The state of an image of a job. A removed one is no longer in the source; its annotations stay in the
    database."""

    WAITING = "waiting"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The definition of a job. A job is identified by its `output`.

    `recipe` is normalized JSON, `recipe_hash` its SHA-256. `source` is the address of the images as the user typed it,
    `fingerprint` the hash of its content. `model_hash` is the hash of the base model, the adapters and the project
    models that answer. `options` is JSON for the process that resumes the job.
    """

    output: str
    recipe: str
    recipe_hash: str
    source: str
    fingerprint: str
    model_hash: str
    options: str = "{}"


@dataclass(frozen=True, slots=True)
class Job:
    """A job in the store. `reason` is why it failed. Times are Unix timestamps in seconds."""

    id: int
    spec: JobSpec
    state: JobState
    reason: str
    created: float
    started: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class LeasedImage:
    """An image that one worker has leased.

    `attempts` is the number of failed attempts so far. `sha256` is the hash of the file that was labeled under this
    name before; None if there was none.
    """

    position: int
    name: str
    attempts: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ImageAnnotations:
    """The annotations of an image, and the labels that the recipe did not keep. `sha256` is the hash of its file;
    `width` and `height` are in pixels, after EXIF rotation."""

    sha256: str
    width: int
    height: int
    traces: tuple[TracedAnnotation, ...]
    dropped: tuple[DroppedLabel, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletedImage:
    """An image that was labeled.

    `changed` is whether another file was labeled under this name before. `stamp` is what the source says about its
    version, without reading it.
    """

    position: int
    result: ImageAnnotations
    name: str = ""
    changed: bool = False
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class FailedImage:
    """An image that could not be labeled.

    `kind` is a short code, `reason` a message for people. `final` is whether another attempt would fail as well.
    `stamp`: as of CompletedImage.
    """

    position: int
    kind: str
    reason: str
    final: bool = False
    name: str = ""
    attempts: int = 0
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The number of images of a job in each state, and of failed images by kind of failure."""

    waiting: int = 0
    leased: int = 0
    done: int = 0
    failed: int = 0
    removed: int = 0
    failures_by_kind: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of images that are in the source."""
        return self.waiting + self.leased + self.done + self.failed

    @property
    def unfinished(self) -> int:
        """The number of images that are neither done nor failed."""
        return self.waiting + self.leased


class UnknownJobError(StoreError):
    """There is no such job."""


class InvalidStateError(StoreError):
    """The operation is not allowed in the current state."""


class JobChangedError(StoreError):
    """Another process has changed the recipe, the model or the images of a job while this one worked on it."""

    def __init__(self, job: Job) -> None:
        super().__init__(f"another process has changed job {job.id} while this one worked on it; start again")


class JobMismatchError(StoreError):
    """The output already belongs to a job with another recipe, source or model.

    `differences` has one line each. `job` is that job, `spec` the definition that it does not have.
    """

    def __init__(self, output: str, differences: Sequence[str], job: Job, spec: JobSpec) -> None:
        self.differences, self.job, self.spec = list(differences), job, spec
        super().__init__(self.describe(f"the output {output}", "another output"))

    def describe(self, output: str, other: str) -> str:
        """Returns what differs and what to do. `other`: how to start another job."""
        lines = "".join(f"\n  {line}" for line in self.differences)
        return (
            f"{output} belongs to a job that was started with other settings:{lines}\n"
            f"Use the settings of that job to continue it, or {other} to start a new one"
        )
