"""Routes of corrections: add and withdraw them, and list the images to correct next."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from server.api.auth import ClientIdDep, KeyRequired
from server.api.bodies import JsonBody, document_json_body
from server.api.decoding_errors import translate_decoding_errors
from server.api.deps import EngineDep, JobQueueDep, LifecycleDep, ProjectsDep
from server.api.pages import create_page_response
from server.api.parameters import MAX_ID, AfterQuery, LimitQuery, ProjectId
from server.api.problems import (
    BODY_PROBLEMS,
    INVALID_ANNOTATIONS,
    INVALID_IMAGE,
    INVALID_SOURCE,
    INVALID_STATE,
    JOBS_DISABLED,
    NOT_FOUND,
    SOURCE_NOT_ALLOWED,
    TIMED_OUT,
    document_problems,
)
from server.api.projects.access import PROJECT_RESPONSES, ProjectCallsDep
from server.api.projects.correction_body import CORRECTION_BODY, CorrectionBodyDep
from server.api.projects.correction_schemas import (
    CorrectionId,
    CorrectionListResponse,
    CorrectionResponse,
    ImportResponse,
    JobCorrectionsRequest,
    NextImageResponse,
    NextImagesResponse,
    create_correction_response,
    create_next_image_response,
)
from server.jobs.job_recipe import get_job_recipe
from server.jobs.object_view import ObjectView
from server.projects.project_dataset import is_holdout
from server.projects.review_queue import ReviewCandidate
from server.store import Job
from server.store.projects.records import Project

router = APIRouter(tags=["corrections"], dependencies=[KeyRequired], responses=PROJECT_RESPONSES)


@router.post(
    "/v1/projects/{id}/corrections",
    summary="Add a correction",
    status_code=201,
    openapi_extra=CORRECTION_BODY,
    responses={
        201: {"description": "The correction is stored."},
        **document_problems(*BODY_PROBLEMS, NOT_FOUND, INVALID_IMAGE, INVALID_ANNOTATIONS, TIMED_OUT),
    },
)
async def add_correction(
    lifecycle: LifecycleDep,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: CorrectionBodyDep,
) -> CorrectionResponse:
    """Stores an image and its annotations as a person left them: JSON with the image in base64, or a form with its
    file.

    If the project declares its classes, objects of other classes are refused, with the nearest class. Nothing is
    overwritten: sending an image again creates its next version.
    """
    request = body.correction
    with translate_decoding_errors("image"):
        size = await lifecycle.decoding.check(body.image, client_id)

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
            size=size,
        )
        holdout = is_holdout(correction.content.image_sha256, project.holdout_share)
        return create_correction_response(correction, holdout=holdout)

    return await calls.write(add)


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
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    queue: JobQueueDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    body: Annotated[JobCorrectionsRequest, Depends(JsonBody(JobCorrectionsRequest, '{"job": 1}'))],
) -> ImportResponse:
    """Stores the annotations of a job as corrections, without changes. For jobs that a person has reviewed.

    Objects of classes that the project does not declare are refused; then nothing is stored.
    """

    def import_annotations() -> int:
        project, job = projects.store.get_project(project_id), queue.get_job(body.job)
        with queue.open_job_source(job) as source:
            view = ObjectView(get_job_recipe(job))
            if project.classes:
                projects.corrections.check_import(project, view.iter_images(queue.store.iter_images(job, source.read)))
            images = view.iter_images(queue.store.iter_images(job, source.read))
            return projects.corrections.import_job(project, images, body.author or client_id)

    await calls.write(projects.store.database.check_writable)
    return ImportResponse(images=await calls.run(import_annotations, lifecycle.source_limiter))


@router.get(
    "/v1/projects/{id}/next-images",
    summary="List the next images to correct",
    response_model=NextImagesResponse,
    responses=document_problems(JOBS_DISABLED, NOT_FOUND),
)
async def list_next_images(
    lifecycle: LifecycleDep,
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    queue: JobQueueDep,
    project_id: ProjectId,
    job: Annotated[int, Query(ge=1, le=MAX_ID, description="The ID of the job with the images.")],
    count: Annotated[int, Query(ge=1, le=1000, description="The maximum number of images, in at most 8 MB.")] = 20,
) -> Response:
    """Returns the labeled images of a job without a correction, the most useful first: images with uncertain
    annotations, and with labels that are rare in the corrections and in this list.

    To create a correction, fix the annotations of one kind with `parent` null. Ask again after some corrections
    for the next images.
    """

    def select() -> tuple[Project, Job, list[ReviewCandidate], dict[str, int]]:
        project, chosen_job = projects.store.get_project(project_id), queue.get_job(job)
        waiting = queue.store.get_progress(chosen_job).unfinished
        view = ObjectView(get_job_recipe(chosen_job))
        labeled = queue.store.iter_images_with_positions(chosen_job)
        images = ((position, view.apply(image)) for position, image in labeled)
        selected, uncorrected = projects.corrections.select_next(project, images, count)
        return project, chosen_job, selected, {"uncorrected": uncorrected, "waiting": waiting}

    # Under the limit of exports, as it reads all annotations of a job.
    project, chosen_job, selected, counts = await calls.run(select, lifecycle.export_limiter)
    candidates = {candidate.position: candidate for candidate in selected}

    def read(positions: Sequence[int]) -> Iterator[NextImageResponse]:
        view = ObjectView(get_job_recipe(chosen_job))
        images = {position: view.apply(image) for position, image in queue.store.list_images(chosen_job, positions)}
        for position in positions:
            holdout = is_holdout(images[position].sha256, project.holdout_share)
            yield create_next_image_response(candidates[position], images[position], holdout=holdout)

    return await create_page_response(
        calls, "images", lambda: queue.store.plan_selection(chosen_job, list(candidates)), read, lambda _: counts
    )


@router.get(
    "/v1/projects/{id}/corrections",
    summary="List the corrections",
    response_model=CorrectionListResponse,
    responses=document_problems(NOT_FOUND),
)
async def list_corrections(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    project_id: ProjectId,
    after: AfterQuery = None,
    limit: LimitQuery = 100,
) -> Response:
    """Returns all versions of all corrections, oldest first, in pages."""
    store = projects.store
    project = await calls.read(lambda: store.get_project(project_id))

    def read(ids: Sequence[int]) -> Iterator[CorrectionResponse]:
        for each in store.corrections.list_corrections(project, ids):
            holdout = is_holdout(each.content.image_sha256, project.holdout_share)
            yield create_correction_response(each, holdout=holdout)

    return await create_page_response(
        calls, "corrections", lambda: store.corrections.plan_page(project, after or 0, limit), read
    )


@router.delete(
    "/v1/projects/{id}/corrections/{correction_id}",
    summary="Withdraw a correction",
    responses=document_problems(NOT_FOUND, INVALID_STATE),
)
async def withdraw_correction(
    calls: ProjectCallsDep,
    projects: ProjectsDep,
    _: EngineDep,
    client_id: ClientIdDep,
    project_id: ProjectId,
    correction_id: CorrectionId,
) -> CorrectionResponse:
    """Takes back the current correction of an image and kind, and returns the version that says so.

    The image then counts as not corrected for this kind: later runs and backtests do without it, and `next-images` may
    list it again. Nothing is deleted: the earlier versions stay, and runs that were started keep their images. A new
    correction of the image replaces the withdrawal.
    """

    def withdraw() -> CorrectionResponse:
        project = projects.store.get_project(project_id)
        correction = projects.corrections.withdraw_correction(project, correction_id, client_id)
        holdout = is_holdout(correction.content.image_sha256, project.holdout_share)
        return create_correction_response(correction, holdout=holdout)

    return await calls.write(withdraw)
