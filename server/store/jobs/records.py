"""What the store takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from labels.labeled_image import TracedAnnotation
from server.store.database import StoreError


class JobState(StrEnum):
    """Where a job stands. Paused and failed ones can be resumed."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job as it is asked for. `output` names what it writes: a job with the same one is the same job, gone on with.

    `recipe`: normalised JSON, `recipe_hash` its SHA-256; `source`: as it was typed, `fingerprint` of what it holds;
    `model`: the SHA-256 of all that answers; `options`: JSON, for whoever starts it again.
    """

    output: str
    recipe: str
    recipe_hash: str
    source: str
    fingerprint: str
    model: str
    options: str = "{}"


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is kept; `reason`: why it failed. Times are seconds since 1970."""

    id: int
    wanted: Wanted
    state: JobState
    reason: str
    created: float
    started: float | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class Item:
    """A picture that was leased: nobody else works on it. `tries` have failed so far."""

    position: int
    name: str
    tries: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said about a picture: `sha256` of its file; its size in pixels, upright."""

    sha256: str
    width: int
    height: int
    labels: tuple[TracedAnnotation, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """A picture that was labelled."""

    position: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that failed: `kind` in a word, `reason` for people. `final`: another try would fail alike."""

    position: int
    kind: str
    reason: str
    final: bool = False
    name: str = ""
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How many pictures of a job are in which state, and how many failed of which kind."""

    waiting: int = 0
    leased: int = 0
    done: int = 0
    failed: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.waiting + self.leased + self.done + self.failed

    @property
    def open(self) -> int:
        """Not ended yet."""
        return self.waiting + self.leased


class UnknownJob(StoreError):  # noqa: N818
    """There is no such job."""


class NotNow(StoreError):  # noqa: N818
    """A job is in no state for what was asked."""


class JobChanged(StoreError):  # noqa: N818
    """What was asked for is not what the output's job began with; `differences` says how, a line each."""

    def __init__(self, output: str, differences: Sequence[str]) -> None:
        listed = "".join(f"\n  {line}" for line in differences)
        super().__init__(
            f"the job of {output} began differently:{listed}\nGive back what it began with, or take another output"
        )
        self.differences = list(differences)
