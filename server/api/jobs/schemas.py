"""Schemas and parameters of the jobs resource."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.types import Scope

from labels.labeled_image import LabeledImage, TracedAnnotation
from prompts.annotations import Annotation
from server.api.jobs.examples import JOB_EXAMPLE
from server.api.parameters import MAX_ID, Name
from server.api.timestamps import to_datetime
from server.jobs.sources.uploads import UPLOAD_PREFIX
from server.store.jobs.records import MAX_NAMES, JobState
from server.store.text import is_url, redact_address

if TYPE_CHECKING:
    from server.store.jobs.job_changes import ImageChanges
    from server.store.jobs.records import FailedImage, Job, JobProgress

_MAX_BODY_BYTES = 1 << 20  # most of it for the recipe
_POSITION = "The position in the job: in the order of the source, with images that were added later at the end."
ImagePosition = Annotated[int, Path(ge=0, le=MAX_ID, description="The position of the image in the source, from 0.")]


class JobRequest(BaseModel):
    """Images to label, and how."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        min_length=1,
        max_length=4096,
        description="Where the server finds the images: a folder, a pattern such as /data/**/*.jpg, an archive, a "
        "list, a COCO file or a URL. Paths are absolute. The setting FLORIST_JOBS_SOURCES must allow it. Or the "
        "`source` of an upload, `upload:ID`.",
    )
    recipe: str | dict[str, Any] = Field(
        description="How to label each image: the name of a built-in recipe, a recipe in YAML, or a recipe as an "
        "object."
    )
    output: Name | None = Field(
        None,
        description="The name of the output. The same request with the same output returns the same job. null: a new "
        "one.",
    )

    @field_validator("source")
    @classmethod
    def _check_source(cls, source: str) -> str:
        if not is_url(source) and not source.startswith(("/", UPLOAD_PREFIX)):
            # Clients do not know the folder that it would be relative to.
            raise ValueError("give an absolute path, such as /data/images, a URL, or an upload, such as upload:ID")
        return source

    @field_validator("recipe", mode="before")
    @classmethod
    def _check_recipe_type(cls, recipe: Any) -> Any:
        if not isinstance(recipe, str | dict):
            raise ValueError("send the name of a built-in recipe, a recipe in YAML, or a recipe as an object")
        return recipe


class JobImageCounts(BaseModel):
    """The number of images in each state. `running` ones are being labeled."""

    total: int
    waiting: int
    running: int
    done: int
    failed: int
    removed: int = Field(description="Those that are no longer in the source, which are not in the total.")


class JobSummaryResponse(BaseModel):
    """A job without its recipe, in a list and in events."""

    id: int
    output: str = Field(description="The name of the output.")
    state: JobState = Field(description="Paused and failed jobs can be resumed.")
    reason: str = Field(description="Why the job failed as a whole; empty if it did not.")
    source: str = Field(description="Where the images are; URLs without their query.")
    recipe_name: str = Field(description="The name of the recipe.")
    model: str = Field(description="SHA-256 of all weights that answer: of the model, of adapters and of champions.")
    created: datetime
    started: datetime | None
    ended: datetime | None
    images: JobImageCounts
    failures: dict[str, int] = Field(description="The number of failed images by kind of failure.")
    rate: float | None = Field(
        description="Images per second, averaged over the last minutes, if this server runs the job."
    )
    seconds_left: float | None = Field(description="The time left at this rate.")


class JobResponse(JobSummaryResponse):
    """A job."""

    model_config = ConfigDict(json_schema_extra={"examples": [JOB_EXAMPLE]})

    recipe: dict[str, Any] = Field(
        description="The recipe without default values. For steps that name projects it includes `champions`: the "
        "models that were promoted when the job started, and answer until it ends."
    )
    warnings: list[str] = Field(
        description="What may not be as expected: tasks that the model does not know, class lists that cannot hold."
    )


class ExtendedJobResponse(BaseModel):
    """A job, and how its images have changed."""

    job: JobResponse
    added: int = Field(description="The number of images that are new in the source, or are in it again.")
    compared: int = Field(
        description="The number of images that may have changed. They are read again, and labeled again if they have."
    )
    removed: int = Field(
        description="The number of images that are no longer in the source. They leave the results; their labels stay "
        "in the database, and come back with the images."
    )
    kept: int = Field(description="The number of images whose labels stay.")
    unchecked: int = Field(
        description="How many of these are kept although the source does not say whether they have changed."
    )
    names: dict[str, list[str]] = Field(
        description=f"The first {MAX_NAMES} names of the images that are `added`, `compared` and `removed`."
    )


class JobListResponse(BaseModel):
    """A page of jobs."""

    jobs: list[JobSummaryResponse]
    next: int | None = Field(description="`after` of the next page; null on the last page.")


class TracedAnnotationResponse(BaseModel):
    """An annotation, and where it came from."""

    annotation: Annotation
    step: str = Field(description="The step of the recipe.")
    prompt: str = Field(description="The prompt that the model read.")
    raw: str = Field(description="The whole answer, with location tokens.")
    model: str = Field(description="SHA-256 of the weights of the model.")
    adapter: str | None = Field(
        description="SHA-256 of the weights of the adapter or ensemble; null: the model alone answered."
    )
    review: str = Field(description="Why a person should review it; empty if nobody needs to.")
    parent: int | None = Field(
        description="The index, among the annotations of the image, of the annotation that it describes."
    )


class LabeledImageResponse(BaseModel):
    """A labeled image. Coordinates are pixels of `width` × `height`, with EXIF orientation applied."""

    position: int = Field(description=_POSITION)
    name: str = Field(description="The path in the source.")
    sha256: str = Field(description="Of the image file.")
    width: int
    height: int
    annotations: list[TracedAnnotationResponse]


class JobResultsResponse(BaseModel):
    """A page of labeled images."""

    images: list[LabeledImageResponse]
    next: int | None = Field(description="`after` of the next page; null if there are no more images so far.")


class FailedImageResponse(BaseModel):
    """An image that could not be labeled."""

    position: int = Field(description=_POSITION)
    name: str
    kind: str = Field(description="The kind of failure.")
    reason: str


class JobFailuresResponse(BaseModel):
    """A page of failed images."""

    failures: list[FailedImageResponse]
    next: int | None = Field(description="`after` of the next page; null if there are no more failures so far.")


def get_job_request_limit(scope: Scope) -> int | None:
    """Returns the maximum size in bytes of a request's body; None for other resources."""
    return _MAX_BODY_BYTES if scope["method"] == "POST" and scope["path"].startswith("/v1/jobs") else None


def create_job_summary(job: "Job", progress: "JobProgress", rate: float | None) -> JobSummaryResponse:
    """Returns the entry of a list for a job. `rate`: images per second, if known."""
    return JobSummaryResponse(**_collect_job_fields(job, json.loads(job.spec.recipe), progress, rate))


def create_job_response(
    job: "Job", progress: "JobProgress", rate: float | None, warnings: Sequence[str]
) -> JobResponse:
    """Returns the response for a job. `rate`: images per second, if known."""
    recipe = json.loads(job.spec.recipe)
    fields = _collect_job_fields(job, recipe, progress, rate)
    return JobResponse(**fields, recipe=recipe, warnings=list(warnings))


def create_extended_response(job: JobResponse, changes: "ImageChanges") -> ExtendedJobResponse:
    """Returns the response for a job that was extended."""
    return ExtendedJobResponse(
        job=job,
        added=changes.added,
        compared=changes.compared,
        removed=changes.removed,
        kept=changes.kept,
        unchecked=changes.unchecked,
        names={kind: list(names) for kind, names in changes.names.items()},
    )


def create_image_response(position: int, image: LabeledImage) -> LabeledImageResponse:
    """Returns the response for a labeled image."""
    return LabeledImageResponse(
        position=position,
        name=image.name,
        sha256=image.sha256,
        width=image.width,
        height=image.height,
        annotations=[_create_annotation_response(traced) for traced in image.traced_annotations],
    )


def create_failure_response(failure: "FailedImage") -> FailedImageResponse:
    """Returns the response for a failed image."""
    return FailedImageResponse(position=failure.position, name=failure.name, kind=failure.kind, reason=failure.reason)


def _create_annotation_response(traced: TracedAnnotation) -> TracedAnnotationResponse:
    return TracedAnnotationResponse(**{name: getattr(traced, name) for name in TracedAnnotationResponse.model_fields})


def _collect_job_fields(
    job: "Job", recipe: dict[str, Any], progress: "JobProgress", rate: float | None
) -> dict[str, Any]:
    return {
        "id": job.id,
        "output": job.spec.output,
        "state": job.state,
        "reason": job.reason,
        "source": redact_address(job.spec.source),
        "recipe_name": str(recipe.get("name", "")),
        "model": job.spec.model_hash,
        "created": to_datetime(job.created),
        "started": to_datetime(job.started),
        "ended": to_datetime(job.ended),
        "images": JobImageCounts(
            total=progress.total,
            waiting=progress.waiting,
            running=progress.leased,
            done=progress.done,
            failed=progress.failed,
            removed=progress.removed,
        ),
        "failures": progress.failures_by_kind,
        "rate": None if rate is None else round(rate, 2),
        "seconds_left": round(progress.unfinished / rate, 1) if rate else None,
    }
