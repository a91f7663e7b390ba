"""Routes of what a job produces: results, failures, datasets, the summary page, and the image files."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import anyio
from fastapi import APIRouter, Query, Response
from fastapi.responses import HTMLResponse
from pydantic import AfterValidator

from labels.formats import FORMATS
from labels.writing.image_options import ImagePlacement
from server.api.auth import KeyRequired
from server.api.deps import EngineDep, JobQueueDep, LifecycleDep, RequestStackDep
from server.api.jobs.access import JobCallsDep
from server.api.jobs.exports import JSON_LINES, REPORT_HEADER, ZIP, JobExport, create_download, write_dataset
from server.api.jobs.schemas import (
    ImagePosition,
    JobFailuresResponse,
    JobResultsResponse,
    create_failure_response,
    create_image_response,
)
from server.api.model_names import get_public_name
from server.api.pages import create_page_response
from server.api.parameters import AfterQuery, JobId, LimitQuery
from server.api.problems import (
    INSUFFICIENT_STORAGE,
    INVALID_RECIPE,
    INVALID_REQUEST,
    INVALID_SOURCE,
    JOBS_DISABLED,
    NOT_FOUND,
    NOT_READY,
    SOURCE_NOT_ALLOWED,
    STORE_PROBLEMS,
    UNAUTHORIZED,
    ProblemError,
    document_problems,
)
from server.api.threads import ThreadCalls
from server.jobs.object_view import ObjectView
from server.jobs.sources import SourceError, SourceImageError
from server.store.text import hide_folders, redact_address

if TYPE_CHECKING:
    from server.jobs.queue import JobQueue
    from server.store.jobs.records import Job

# For the summary page, in addition to its own policy, which allows only its own script. It contains names of files that
# strangers may have chosen: `sandbox` keeps it away from the server, whatever it contains.
_PAGE_POLICY = "frame-ancestors 'none'; sandbox allow-scripts"
# An image file may be anything: browsers must not guess its type.
_IMAGE_TYPE = "application/octet-stream"
_IMAGE_HEADERS = {"X-Content-Type-Options": "nosniff"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REPORT_DESCRIPTION = (
    "JSON: the numbers of images and annotations, of what is in no file (`left_out`) or in a second file of the "
    "archive (`other_files`), of images with other names (`renamed`) and with names that other tools may confuse "
    "(`warnings`), and how far the job was. An archive has the whole report in `.florist`, and all new names in "
    "`renamed.csv`."
)
_COMMON = (UNAUTHORIZED, JOBS_DISABLED, INVALID_REQUEST, *NOT_READY, *STORE_PROBLEMS)
router = APIRouter(tags=["jobs"], dependencies=[KeyRequired], responses=document_problems(*_COMMON))
logger = logging.getLogger(__name__)
T = TypeVar("T")


def _check_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"there is no such format; there are {', '.join(FORMATS)}")
    return name


FormatQuery = Annotated[
    str,
    AfterValidator(_check_format),
    Query(
        description="; ".join(f"`{name}`: {format.title}" for name, format in FORMATS.items()),
        json_schema_extra={"enum": list(FORMATS)},
    ),
]

ImagesQuery = Annotated[
    Literal["copy", "none"] | None,
    Query(
        description="Whether copies of the images are in the dataset. Default: if the format's tools need them there."
    ),
]
ImageUrlQuery = Annotated[
    str | None,
    Query(
        max_length=2000,
        description="For `label-studio` and `coco`: an image's address is this and its percent-encoded name.",
    ),
]


@router.get(
    "/v1/jobs/{id}/results",
    summary="List the results of a job",
    response_model=JobResultsResponse,
    responses=document_problems(NOT_FOUND),
)
async def list_results(
    calls: JobCallsDep, queue: JobQueueDep, job_id: JobId, after: AfterQuery = None, limit: LimitQuery = 100
) -> Response:
    """Returns the labeled images in the order of the source, in pages. While the job runs, a page can grow."""
    job = await calls.read(lambda: queue.get_job(job_id))
    return await create_page_response(
        calls,
        "images",
        lambda: queue.store.plan_images(job, -1 if after is None else after, limit),
        lambda positions: (create_image_response(*each) for each in queue.store.list_images(job, positions)),
    )


@router.get(
    "/v1/jobs/{id}/failures",
    summary="List the failures of a job",
    response_model=JobFailuresResponse,
    responses=document_problems(NOT_FOUND),
)
async def list_failures(
    calls: JobCallsDep, queue: JobQueueDep, job_id: JobId, after: AfterQuery = None, limit: LimitQuery = 100
) -> Response:
    """Returns the images that could not be labeled, each with the reason, in pages."""
    job = await calls.read(lambda: queue.get_job(job_id))
    return await create_page_response(
        calls,
        "failures",
        lambda: queue.store.plan_failures(job, -1 if after is None else after, limit),
        lambda positions: map(create_failure_response, queue.store.list_failures(job, positions)),
    )


@router.get(
    "/v1/jobs/{id}/export",
    summary="Download the dataset of a job",
    response_class=Response,
    responses={
        200: {
            "description": "A folder as a ZIP archive, or JSON lines.",
            "content": dict.fromkeys((ZIP, JSON_LINES), _BINARY),
            "headers": {REPORT_HEADER: {"schema": {"type": "string"}, "description": _REPORT_DESCRIPTION}},
        },
        **document_problems(NOT_FOUND, INVALID_REQUEST, INVALID_SOURCE, INVALID_RECIPE),
    },
)
async def export_job(
    calls: JobCallsDep,
    lifecycle: LifecycleDep,
    queue: JobQueueDep,
    _engine: EngineDep,
    stack: RequestStackDep,
    job_id: JobId,
    format: FormatQuery = "coco",
    images: ImagesQuery = None,
    image_url: ImageUrlQuery = None,
) -> Response:
    """Returns all results so far as a dataset for other tools. It is written completely before it is sent.

    The header `X-Export-Report` says what the format cannot hold, and whether the job was done."""

    def write() -> JobExport:
        from server.jobs.job_recipe import get_job_recipe

        job = queue.get_job(job_id)
        progress = queue.store.get_progress(job)
        placement = FORMATS[format].choose_placement(images and ImagePlacement(images), image_url)
        FORMATS[format].check_options(placement, image_url)
        folder = stack.enter_context(queue.exports.create_folder())
        with ExitStack() as source_stack:
            read = _open_reader(queue, job, source_stack) if placement is ImagePlacement.COPY else None
            view = ObjectView(get_job_recipe(job))
            labeled = queue.exports.limit_space(view.iter_images(queue.store.iter_images(job, read)))
            return write_dataset(format, labeled, folder, job, progress, placement, image_url)

    try:
        dataset = await _write_in_thread(calls, write, job_id, lifecycle.export_limiter)
    except ValueError as error:
        field = "images" if image_url is None or FORMATS[format].writer.holds_urls else "image_url"
        raise ProblemError(INVALID_REQUEST, str(error), field) from None
    return create_download(dataset)


@router.get(
    "/v1/jobs/{id}/summary",
    summary="View the summary of a job",
    response_class=HTMLResponse,
    responses={
        200: {"description": "One HTML page that needs no other files."},
        **document_problems(NOT_FOUND, INVALID_RECIPE),
    },
)
async def view_summary(
    calls: JobCallsDep,
    lifecycle: LifecycleDep,
    queue: JobQueueDep,
    engine: EngineDep,
    _stack: RequestStackDep,
    job_id: JobId,
) -> Response:
    """Returns a page about all results so far: counts and scores of all classes and steps, images with their labels,
    which can be filtered and enlarged, and failures."""
    from server.jobs.summary.summary import get_page_policy

    def write() -> bytes:
        from server.jobs.calibrated_steps import find_uncalibrated_steps
        from server.jobs.job_recipe import get_job_recipe
        from server.jobs.job_start import get_model_name
        from server.jobs.summary import SummaryInfo, write_summary

        job = queue.get_job(job_id)
        recipe = get_job_recipe(job)
        dropped, uncounted = queue.store.count_dropped(job)
        info = SummaryInfo(
            title=job.spec.output,
            recipe=recipe,
            source=redact_address(job.spec.source),
            model=get_public_name(get_model_name(job, engine, recipe)),
            progress=queue.store.get_progress(job),
            failures=queue.store.iter_failures(job),
            dropped=dropped,
            uncounted=uncounted,
            uncalibrated=find_uncalibrated_steps(recipe, engine),
        )
        with queue.exports.create_temporary_folder() as folder, ExitStack() as source_stack:
            page = folder / "summary.html"
            read, notes = _open_reader_or_fail(queue, job, source_stack)
            write_summary(page, queue.store.iter_images(job, read), replace(info, notes=notes))
            return page.read_bytes()

    return HTMLResponse(
        await _write_in_thread(calls, write, job_id, lifecycle.export_limiter),
        headers={"Content-Security-Policy": f"{get_page_policy()}; {_PAGE_POLICY}"},
    )


@router.get(
    "/v1/jobs/{id}/images/{position}",
    summary="Download an image of a job",
    response_class=Response,
    responses={
        200: {"description": "The file, unchanged.", "content": {_IMAGE_TYPE: _BINARY}},
        **document_problems(NOT_FOUND, SOURCE_NOT_ALLOWED, INVALID_SOURCE),
    },
)
async def get_image(
    calls: JobCallsDep,
    lifecycle: LifecycleDep,
    queue: JobQueueDep,
    _engine: EngineDep,
    _stack: RequestStackDep,
    job_id: JobId,
    position: ImagePosition,
) -> Response:
    """Returns an image file, for clients that cannot read the source. The server lists the source for each request."""

    def read() -> bytes:
        job = queue.get_job(job_id)
        if (name := queue.store.get_image_name(job, position)) is None:
            raise ProblemError(NOT_FOUND, f"job {job_id} has no image at this position; the first is at 0")
        with queue.open_job_source(job) as source:
            try:
                return source.read(name)
            except SourceImageError as error:
                detail = f"{name} cannot be read: {error}"
                raise ProblemError(INVALID_SOURCE, detail, "position") from None

    data = await calls.run(read, lifecycle.source_limiter)
    return Response(data, media_type=_IMAGE_TYPE, headers=_IMAGE_HEADERS)


async def _write_in_thread(
    calls: ThreadCalls, write: Callable[[], T], job_id: int, limiter: anyio.CapacityLimiter
) -> T:
    """Returns what `write` returns. Raises ProblemError, also if the disk is full."""
    try:
        return await calls.run(write, limiter)
    except OSError as error:
        logger.error("cannot export job %d", job_id, exc_info=error)
        reason = error.strerror or hide_folders(str(error))
        detail = f"the export cannot be written: {reason}; ask the operator to free disk space"
        raise ProblemError(INSUFFICIENT_STORAGE, detail) from None


def _open_reader(queue: "JobQueue", job: "Job", stack: ExitStack) -> Callable[[str], bytes]:
    """Returns a function that reads an image file by its name, until the stack closes. Raises SourceError."""
    return stack.enter_context(queue.open_job_source(job)).read


def _open_reader_or_fail(
    queue: "JobQueue", job: "Job", stack: ExitStack
) -> tuple[Callable[[str], bytes], Sequence[str]]:
    """As `_open_reader`, with the notes of the source. If it cannot be opened, the function raises OSError with the
    reason."""
    try:
        source = stack.enter_context(queue.open_job_source(job))
        return source.read, source.notes
    except SourceError as error:
        reason = str(error)

    def fail(name: str) -> bytes:
        raise OSError(reason)

    return fail, ()
