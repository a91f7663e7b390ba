"""What the resource of jobs takes and gives."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, field_validator

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation
from server.api import examples
from server.jobs.sources import addresses
from server.store import FailedImage, Job, JobState, JobProgress

LARGEST = 2**63 - 1  # that databases count to
Number = Annotated[int, Path(alias="id", ge=1, le=LARGEST, description="The job's id.")]
Position = Annotated[int, Path(ge=0, le=LARGEST, description="The picture's place in the source.")]
OUTPUT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class JobRequest(BaseModel):
    """Pictures to label, and how."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        min_length=1,
        max_length=4096,
        description="Where the pictures are, as the server sees it: a folder, a pattern such as /data/**/*.jpg, an "
        "archive, a list, a COCO file or a URL, in a place that its setting FLORIST_JOBS_SOURCES names.",
    )
    recipe: str | dict[str, Any] = Field(
        description="What to ask about each: a ready recipe's name, a recipe's YAML, or one as an object."
    )
    output: str | None = Field(
        None,
        pattern=OUTPUT,
        description="The name of what comes out. The same request with the same name is the same job. None: a new one.",
    )

    @field_validator("recipe", mode="before")
    @classmethod
    def _kind(cls, recipe: Any) -> Any:
        if not isinstance(recipe, str | dict):
            raise ValueError("send a ready recipe's name, a recipe's YAML as text, or a recipe as an object")
        return recipe


class Counts(BaseModel):
    """How many pictures are in which state. `running` ones are being labelled."""

    total: int
    waiting: int
    running: int
    done: int
    failed: int


class JobRow(BaseModel):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.JOB]})

    id: int
    output: str = Field(description="The name of what comes out.")
    state: JobState = Field(description="Paused and failed jobs can be resumed.")
    reason: str = Field(description="Why the job as a whole failed.")
    source: str = Field(description="Where the pictures are; of a URL without its query.")
    recipe: dict[str, Any] = Field(
        description="What is asked, without what is the default; where steps ask projects, with the `champions` of "
        "when it began, who answer to its end."
    )
    model: str = Field(description="SHA-256 of the weights that answer, adapters' and projects' models' included.")
    created: datetime
    started: datetime | None
    ended: datetime | None
    pictures: Counts
    failures: dict[str, int] = Field(description="How many pictures were set aside, by kind.")
    rate: float | None = Field(description="Pictures a second of late, where this server works on it.")
    seconds_left: float | None = Field(description="At that rate.")


class JobList(BaseModel):
    jobs: list[JobRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more.")


class LabelRow(BaseModel):
    """A label, and where it came from."""

    annotation: Annotation
    step: str = Field(description="The recipe's step.")
    prompt: str = Field(description="What the model was asked.")
    raw: str = Field(description="Its whole answer, location tokens written out.")
    model: str = Field(description="SHA-256 of the model's weights.")
    adapter: str | None = Field(description="SHA-256 of the adapter's, or of a combined model; null: the model alone.")
    review: str = Field(description="Why a person should look at it; empty where nobody need.")
    parent: int | None = Field(description="The index, among the picture's labels, of the one that it is about.")


class PictureRow(BaseModel):
    """A labelled picture. Coordinates are pixels of `width` × `height`, as EXIF turns it."""

    position: int = Field(description="Its place in the source.")
    name: str = Field(description="Where it lies in the source.")
    sha256: str = Field(description="Of its file.")
    width: int
    height: int
    labels: list[LabelRow]


class Results(BaseModel):
    pictures: list[PictureRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more so far.")


class FailureRow(BaseModel):
    """A picture that was set aside."""

    position: int = Field(description="Its place in the source.")
    name: str
    kind: str
    reason: str


class Failures(BaseModel):
    failures: list[FailureRow]
    next: int | None = Field(description="`after` of the next page; null: there is no more so far.")


def job_row(job: Job, progress: JobProgress, rate: float | None) -> JobRow:
    return JobRow(
        id=job.id,
        output=job.spec.output,
        state=job.state,
        reason=job.reason,
        source=addresses.shown(job.spec.source),
        recipe=json.loads(job.spec.recipe),
        model=job.spec.model,
        created=_moment(job.created),
        started=None if job.started is None else _moment(job.started),
        ended=None if job.ended is None else _moment(job.ended),
        pictures=Counts(
            total=progress.total,
            waiting=progress.waiting,
            running=progress.leased,
            done=progress.done,
            failed=progress.failed,
        ),
        failures=progress.failures_by_kind,
        rate=None if rate is None else round(rate, 2),
        seconds_left=round(progress.unfinished / rate, 1) if rate else None,
    )


def picture_row(position: int, picture: LabeledImage) -> PictureRow:
    return PictureRow(
        position=position,
        name=picture.name,
        sha256=picture.sha256,
        width=picture.width,
        height=picture.height,
        labels=[_label_row(label) for label in picture.traces],
    )


def failure_row(failure: FailedImage) -> FailureRow:
    return FailureRow(position=failure.position, name=failure.name, kind=failure.kind, reason=failure.reason)


def _label_row(label: TracedAnnotation) -> LabelRow:
    return LabelRow(**{name: getattr(label, name) for name in LabelRow.model_fields})


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
