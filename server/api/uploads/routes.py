"""Routes of uploads: images that a client sends, as the source of a job."""

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import APIRouter, Depends, Request, Response

from server.api.auth import KeyRequired
from server.api.deps import EngineDep, JobQueueDep, LifecycleDep, RequestStackDep, SettingsDep
from server.api.problems import (
    BODY_PROBLEMS,
    INSUFFICIENT_STORAGE,
    INVALID_REQUEST,
    INVALID_SOURCE,
    INVALID_STATE,
    JOBS_DISABLED,
    NOT_FOUND,
    NOT_READY,
    STORE_PROBLEMS,
    UNAUTHORIZED,
    document_problems,
)
from server.api.threads import ThreadCalls
from server.api.uploads.body import UPLOAD_BODY, write_body
from server.api.uploads.errors import translate_upload_errors
from server.api.uploads.schemas import UploadId, UploadListResponse, UploadResponse, create_upload_response
from server.lifecycle import Lifecycle
from server.settings import Settings

if TYPE_CHECKING:
    from server.jobs.queue import JobQueue
    from server.jobs.uploads import Upload
    from server.store import Job

_COMMON = (UNAUTHORIZED, JOBS_DISABLED, INVALID_REQUEST, *NOT_READY, *STORE_PROBLEMS)
_ARRIVAL = document_problems(*BODY_PROBLEMS, INVALID_SOURCE, INSUFFICIENT_STORAGE)
router = APIRouter(tags=["uploads"], dependencies=[KeyRequired], responses=document_problems(*_COMMON))
logger = logging.getLogger(__name__)


async def get_calls(lifecycle: LifecycleDep) -> ThreadCalls:
    """Returns the calls in threads, with the errors of uploads as problems."""
    return ThreadCalls(lifecycle, translate_upload_errors)


UploadCallsDep = Annotated[ThreadCalls, Depends(get_calls)]


@router.post(
    "/v1/uploads",
    summary="Upload images",
    status_code=201,
    openapi_extra={"requestBody": UPLOAD_BODY},
    responses={201: {"description": "A job can use the images."}, **_ARRIVAL},
)
async def add_upload(
    request: Request,
    response: Response,
    calls: UploadCallsDep,
    lifecycle: LifecycleDep,
    settings: SettingsDep,
    queue: JobQueueDep,
    _engine: EngineDep,
    _stack: RequestStackDep,
) -> UploadResponse:
    """Stores images on the server: files of a form, or a zip or tar archive as the body. A request that does not arrive
    completely leaves nothing.

    `curl …/v1/uploads -F files=@cat.jpg -F files=@dog.jpg`, or
    `curl …/v1/uploads -H "Content-Type: application/zip" --data-binary @images.zip`. Then start a job with the
    `source` of the answer.
    """
    upload = await _receive(request, calls, lifecycle, queue, settings)
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    logger.info("received the upload %s: %d images", upload.id, upload.images)
    return _describe(queue, upload, ())


@router.post(
    "/v1/uploads/{id}",
    summary="Add images to an upload",
    openapi_extra={"requestBody": UPLOAD_BODY},
    responses=_ARRIVAL | document_problems(NOT_FOUND, INVALID_REQUEST, INVALID_SOURCE),
)
async def add_to_upload(
    request: Request,
    calls: UploadCallsDep,
    lifecycle: LifecycleDep,
    settings: SettingsDep,
    queue: JobQueueDep,
    _engine: EngineDep,
    _stack: RequestStackDep,
    upload_id: UploadId,
) -> UploadResponse:
    """Stores more images in an upload. The others stay; an image whose name is taken gets another one.

    Jobs that use it label the new images after `POST /v1/jobs/{id}/extend`.
    """
    upload = await _receive(request, calls, lifecycle, queue, settings, upload_id)
    return await calls.read(lambda: _describe(queue, upload, _list_jobs(queue, upload)))


@router.get("/v1/uploads", summary="List the uploads")
async def list_uploads(calls: UploadCallsDep, queue: JobQueueDep) -> UploadListResponse:
    """Returns all uploads, oldest first."""

    def read() -> UploadListResponse:
        from server.jobs.sources.uploads import UPLOAD_PREFIX

        uploads, jobs = queue.uploads.list_all(), queue.store.list_jobs_by_source(UPLOAD_PREFIX)
        return UploadListResponse(
            uploads=[_describe(queue, upload, jobs.get(upload.source, ())) for upload in uploads],
            bytes=sum(upload.bytes for upload in uploads),
            max_bytes=queue.uploads.limits.max_bytes,
        )

    return await calls.read(read)


@router.get("/v1/uploads/{id}", summary="Get an upload", responses=document_problems(NOT_FOUND, INVALID_REQUEST))
async def get_upload(calls: UploadCallsDep, queue: JobQueueDep, upload_id: UploadId) -> UploadResponse:
    """Returns one upload."""

    def read() -> UploadResponse:
        upload = queue.uploads.get(upload_id)
        return _describe(queue, upload, _list_jobs(queue, upload))

    return await calls.read(read)


@router.delete(
    "/v1/uploads/{id}",
    summary="Delete an upload",
    status_code=204,
    response_class=Response,
    responses=document_problems(NOT_FOUND, INVALID_REQUEST, INVALID_STATE, INSUFFICIENT_STORAGE),
)
async def delete_upload(calls: UploadCallsDep, queue: JobQueueDep, _: EngineDep, upload_id: UploadId) -> None:
    """Deletes the images of an upload, unless a job that is neither done nor cancelled needs them.

    The results of jobs stay. Their datasets can no longer include the images, and failed images cannot be retried.
    """
    await calls.write(lambda: queue.delete_upload(upload_id))
    logger.info("deleted the upload %s", upload_id)


async def _receive(
    request: Request, calls: ThreadCalls, lifecycle: Lifecycle, queue: "JobQueue", settings: Settings,
    upload_id: str | None = None,
) -> "Upload":  # fmt: skip
    """Returns the upload with what the body has added. Raises ProblemError."""
    stack = ExitStack()
    try:
        with translate_upload_errors():
            part = await anyio.to_thread.run_sync(lambda: stack.enter_context(queue.uploads.receive(upload_id)))
        await write_body(request, part, settings)
        return await calls.run(lambda: queue.uploads.add(part, upload_id), lifecycle.source_limiter)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stack.close)  # removes what has not been added


def _list_jobs(queue: "JobQueue", upload: "Upload") -> "list[Job]":
    return queue.store.list_jobs_by_source(upload.source).get(upload.source, [])


def _describe(queue: "JobQueue", upload: "Upload", jobs: "list[Job] | tuple[Job, ...]") -> UploadResponse:
    return create_upload_response(upload, jobs, queue.uploads.get_expiry(upload))
