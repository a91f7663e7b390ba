"""The route that counts the classes of a job, and the labels that it did not keep."""

from typing import TYPE_CHECKING

from fastapi import APIRouter
from pydantic import BaseModel, Field

from labels.dropped_labels import DropReason
from server.api.auth import KeyRequired
from server.api.deps import EngineDep, JobQueueDep, LifecycleDep
from server.api.jobs.access import JobCallsDep
from server.api.parameters import JobId
from server.api.problems import (
    INVALID_RECIPE,
    INVALID_REQUEST,
    JOBS_DISABLED,
    NOT_FOUND,
    NOT_READY,
    STORE_PROBLEMS,
    UNAUTHORIZED,
    document_problems,
)

if TYPE_CHECKING:
    from server.jobs.summary.class_report import ClassReport

_MAX_DROPPED = 1000
_COMMON = (UNAUTHORIZED, JOBS_DISABLED, INVALID_REQUEST, *NOT_READY, *STORE_PROBLEMS)
router = APIRouter(tags=["jobs"], dependencies=[KeyRequired], responses=document_problems(*_COMMON))


class DroppedLabelResponse(BaseModel):
    """Labels that a step did not keep."""

    step: str
    label: str = Field(description="The label in the model's words.")
    reason: DropReason
    count: int


class JobClassesResponse(BaseModel):
    """The classes of a job so far."""

    held: list[str] = Field(description="What answers are held to, in sentences. Empty: they may name any class.")
    classes: dict[str, int] = Field(
        description="The number of labels of each class of the ontology or of the class lists. Empty: there are none."
    )
    missing: list[str] = Field(description="Those of these classes that no label has.")
    dropped: list[DroppedLabelResponse] = Field(
        description=f"The labels that were not kept, most frequent first: {_MAX_DROPPED:,} at most."
    )
    dropped_labels: int = Field(description="The number of labels that were not kept.")
    uncounted_images: int = Field(
        description="Images for which it is unknown what was not kept, since an older florist labeled them."
    )


@router.get(
    "/v1/jobs/{id}/classes",
    summary="Count the classes of a job",
    responses=document_problems(NOT_FOUND, INVALID_RECIPE),
)
async def count_classes(
    calls: JobCallsDep, lifecycle: LifecycleDep, queue: JobQueueDep, _: EngineDep, job_id: JobId
) -> JobClassesResponse:
    """Counts the labels of each class in all results so far, one an object, and those that were not kept: what the
    ontology dropped, and which of its classes never appeared. Reads all results, which takes a minute for a million
    images."""

    def count() -> JobClassesResponse:
        from server.jobs.job_recipe import get_job_recipe
        from server.jobs.object_view import ObjectView
        from server.jobs.summary.class_report import create_class_report
        from server.jobs.summary.statistics import JobStatistics

        job = queue.get_job(job_id)
        recipe = get_job_recipe(job)
        statistics, view = JobStatistics(recipe), ObjectView(recipe)
        for image in view.iter_images(queue.store.iter_images(job)):
            statistics.add(image.with_regions())
        return _create_response(create_class_report(recipe, statistics, *queue.store.count_dropped(job)))

    return await calls.run(count, lifecycle.export_limiter)


def _create_response(report: "ClassReport") -> JobClassesResponse:
    dropped = [
        DroppedLabelResponse(step=each.step, label=each.label, reason=each.reason, count=each.count)
        for each in report.dropped[:_MAX_DROPPED]
    ]
    return JobClassesResponse(
        held=list(report.held),
        classes=dict(report.counts),
        missing=report.missing,
        dropped=dropped,
        dropped_labels=sum(each.count for each in report.dropped),
        uncounted_images=report.uncounted_images,
    )
