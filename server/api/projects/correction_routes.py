"""Routes of corrections: add them, and list the images to correct next."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.deps import EngineDep, JobQueueDep, LifecycleDep, ProjectsDep
from server.api.parameters import MAX_ID, AfterQuery, LimitQuery, ProjectId
from server.api.problems import (
    BODY_PROBLEMS,
    INVALID_ANNOTATIONS,
    INVALID_IMAGE,
    INVALID_SOURCE,
    JOBS_DISABLED,
    NOT_FOUND,
    SOURCE_NOT_ALLOWED,
    document_problems,
)
from server.api.projects.access import PROJECT_RESPONSES, run_in_thread
from server.api.projects.correction_body import CORRECTION_BODY, CorrectionBodyDep
from server.api.projects.correction_schemas import (
    CorrectionListResponse,
    CorrectionResponse,
    ImportResponse,
    JobCorrectionsRequest,
    NextImagesResponse,
    create_correction_response,
    create_next_image_response,
)
from server.projects.project_dataset import is_holdout

router = APIRouter(tags=["corrections"], dependencies=[KeyRequired], responses=PROJECT_RESPONSES)


@router.post(
    "/v1/projects/{id}/corrections",
    summary="Add a correction",
    status_code=201,
    openapi_extra=CORRECTION_BODY,
    responses={
        201: {"description": "The correction is stored."},
        **document_problems(*BODY_PROBLEMS, NOT_FOUND, INVALID_IMAGE, INVALID_ANNOTATIONS),
    },
)
async def add_correction(
    lifecycle: LifecycleDep,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: CorrectionBodyDep,
) -> CorrectionResponse:
    """Stores an image and its annotations as a person left them: JSON with the image in base64, or a form with its
    file.

    Nothing is overwritten: sending an image again creates its next version.
    """
    request = body.correction

    def add() -> CorrectionResponse:
        project = projects.store.get_project(project_id)
        correction = projects.corrections.add_correction(
            project,
            body.image,
            request.annotations,
            kind=request.kind,
            complete=request.complete,
            image_name=request.name,
            author=request.author or client_id,
            max_pixels=lifecycle.settings.max_pixels,
        )
        holdout = is_holdout(correction.content.image_sha256, project.holdout_share)
        return create_correction_response(correction, holdout=holdout)

    return await run_in_thread(add, lifecycle.decode_limiter)


@router.post(
    "/v1/projects/{id}/corrections/job",
    summary="Import the annotations of a job",
    openapi_extra=document_json_body(JobCorrectionsRequest, {"job": {"value": {"job": 1}}}),
    responses=document_problems(
        *BODY_PROBLEMS, JOBS_DISABLED, NOT_FOUND, INVALID_SOURCE, INVALID_ANNOTATIONS, SOURCE_NOT_ALLOWED
    ),
)
async def import_job(
    lifecycle: LifecycleDep,
    projects: ProjectsDep,
    queue: JobQueueDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: Annotated[JobCorrectionsRequest, Depends(JsonBody(JobCorrectionsRequest, '{"job": 1}'))],
) -> ImportResponse:
    """Stores the annotations of a job as corrections, without changes. For jobs that a person has reviewed."""

    def import_annotations() -> int:
        project, job = projects.store.get_project(project_id), queue.get_job(body.job)
        with queue.open_job_source(job) as source:
            images = queue.store.iter_images(job, lambda position: source[position].read())
            return projects.corrections.import_job(project, images, body.author or client_id)

    return ImportResponse(images=await run_in_thread(import_annotations, lifecycle.source_limiter))


@router.get(
    "/v1/projects/{id}/next-images",
    summary="List the next images to correct",
    responses=document_problems(JOBS_DISABLED, NOT_FOUND),
)
async def list_next_images(
    lifecycle: LifecycleDep,
    projects: ProjectsDep,
    queue: JobQueueDep,
    project_id: ProjectId,
    job: Annotated[int, Query(ge=1, le=MAX_ID, description="The ID of the job with the images.")],
    count: Annotated[int, Query(ge=1, le=1000, description="The maximum number of images.")] = 20,
) -> NextImagesResponse:
    """Returns the labeled images of a job without a correction, the most useful first: images with uncertain
    annotations, and with labels that are rare in the corrections and in this list.

    To create a correction, fix the annotations of one kind with `parent` null. Ask again after some corrections
    for the next images.
    """

    def select() -> NextImagesResponse:
        project, chosen_job = projects.store.get_project(project_id), queue.get_job(job)
        waiting = queue.store.get_progress(chosen_job).unfinished
        images = queue.store.iter_images_with_positions(chosen_job)
        candidates, uncorrected = projects.corrections.select_next(project, images, count)
        rows = [
            create_next_image_response(each, holdout=is_holdout(each.image.sha256, project.holdout_share))
            for each in candidates
        ]
        return NextImagesResponse(images=rows, uncorrected=uncorrected, waiting=waiting)

    # Under the limit of exports, as it reads all annotations of a job.
    return await run_in_thread(select, lifecycle.export_limiter)


@router.get("/v1/projects/{id}/corrections", summary="List the corrections", responses=document_problems(NOT_FOUND))
async def list_corrections(
    projects: ProjectsDep, project_id: ProjectId, after: AfterQuery = None, limit: LimitQuery = 100
) -> CorrectionListResponse:
    """Returns all versions of all corrections, oldest first, in pages."""

    def read_page() -> CorrectionListResponse:
        project = projects.store.get_project(project_id)
        corrections = projects.store.corrections.list_corrections(project, after or 0, limit + 1)
        page = [
            create_correction_response(each, holdout=is_holdout(each.content.image_sha256, project.holdout_share))
            for each in corrections[:limit]
        ]
        return CorrectionListResponse(corrections=page, next=page[-1].id if len(corrections) > limit else None)

    return await run_in_thread(read_page)
