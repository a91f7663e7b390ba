"""What comes of a job as files: its dataset in any format, and its page to look at."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import AfterValidator

from labels.formats import FORMATS
from server.api import exports, problems
from server.api.job_problems import told
from server.api.job_schemas import Number, Position
from server.api.problems import Problem, documented
from server.jobs import job_start
from server.jobs.queue import JobQueue
from server.jobs.sources import SourceImageError, SourceError, addresses
from server.serving import Serving
from server.store import Job

# The page holds all that it shows, and runs nothing; names in it come from strangers' files.
_PAGE = {"Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"}
_FILE = "application/octet-stream"  # a stranger's file: a browser shall make nothing of it but what a page asks for
router = APIRouter()
logger = logging.getLogger(__name__)
T = TypeVar("T")


def _format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"there is no such format; there are {', '.join(FORMATS)}")
    return name


Format = Annotated[
    str,
    AfterValidator(_format),
    Query(
        description="; ".join(f"`{name}`: {format.title}" for name, format in FORMATS.items()),
        json_schema_extra={"enum": list(FORMATS)},
    ),
]


@router.get(
    "/v1/jobs/{id}/export",
    response_class=Response,
    responses={
        200: {
            "description": "A folder comes as a zip archive, JSON lines as they are.",
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in (exports.ZIP, exports.LINES)
            },
        },
        **documented(problems.NOT_FOUND, problems.INVALID_REQUEST, problems.INVALID_SOURCE),
    },
)
async def export(
    request: Request,
    number: Number,
    format: Format = "coco",
    pictures: Annotated[bool, Query(description="Whether copies of the pictures are in it.")] = False,
) -> Response:
    """Downloads what is labelled so far as a dataset for other tools. It is written before the first byte is sent."""
    serving: Serving = request.app.state.serving
    queue = serving.jobs()
    serving.engine()

    def write(until: ExitStack) -> Path:
        job = queue.job(number)
        folder = until.enter_context(queue.export_folder())
        with ExitStack() as stack:
            read = (lambda _: b"") if not pictures else _reader(queue, job, stack)
            labelled = queue.store.iter_images(job, read)
            return exports.write(format, labelled, folder, job.spec.output, pictures_too=pictures)

    with serving.work() as work:
        try:
            dataset = await _written(serving, number, lambda: write(work))
        except ValueError as error:
            raise Problem(problems.INVALID_REQUEST, str(error), "pictures") from None
        return exports.Download(dataset, work.pop_all())


@router.get(
    "/v1/jobs/{id}/summary",
    response_class=HTMLResponse,
    responses={
        200: {"description": "One page in HTML, which needs no other file."},
        **documented(problems.NOT_FOUND, problems.INVALID_RECIPE),
    },
)
async def summary(request: Request, number: Number) -> Response:
    """What is labelled so far on a page to look at: sample pictures with their labels, counts, scores, what is doubtful
    first, and failures."""
    serving: Serving = request.app.state.serving
    queue = serving.jobs()
    engine = serving.engine()

    def write() -> bytes:
        from server.jobs.summary import SummaryInfo, write  # draws: it takes a second to import

        job = queue.job(number)
        recipe = job_start.get_job_recipe(job)
        about = SummaryInfo(
            title=job.spec.output,
            recipe=recipe,
            source=addresses.shown(job.spec.source),
            model=job_start.describe_model(job, engine, recipe),
            progress=queue.store.get_progress(job),
            failures=queue.store.iter_failures(job),
        )
        with queue.export_folder() as folder, ExitStack() as stack:
            page = folder / "summary.html"
            write(page, queue.store.iter_images(job, _reader_or_why(queue, job, stack)), about)
            return page.read_bytes()

    with serving.work():
        return HTMLResponse(await _written(serving, number, write), headers=_PAGE)


@router.get(
    "/v1/jobs/{id}/pictures/{position}",
    response_class=Response,
    responses={
        200: {
            "description": "Its bytes, as they lie in the source.",
            "content": {_FILE: {"schema": {"type": "string", "format": "binary"}}},
        },
        **documented(problems.NOT_FOUND, problems.SOURCE_REFUSED, problems.INVALID_SOURCE),
    },
)
async def picture(request: Request, number: Number, position: Position) -> Response:
    """A picture's file, for whoever looks at its labels elsewhere than on the server's machine. Its source is listed
    each time."""
    serving: Serving = request.app.state.serving
    queue = serving.jobs()
    serving.engine()

    def read() -> bytes:
        job = queue.job(number)
        with queue.source(job) as source:
            if position >= len(source):
                raise Problem(problems.NOT_FOUND, f"job {number} has {len(source)} pictures; the first is at 0")
            try:
                return source[position].read()
            except SourceImageError as error:
                detail = f"{source.names[position]} cannot be read: {error}"
                raise Problem(problems.INVALID_SOURCE, detail, "position") from None

    with serving.work(), told():
        data = await anyio.to_thread.run_sync(read, limiter=serving.queueing)
    return Response(data, media_type=_FILE, headers={"X-Content-Type-Options": "nosniff"})


async def _written(serving: Serving, number: int, write: Callable[[], T]) -> T:
    """What `write` gives, one at a time and beside the event loop. Raises Problem."""
    try:
        with told():
            return await anyio.to_thread.run_sync(write, limiter=serving.exporting)
    except OSError as error:
        logger.error("job %d cannot be exported", number, exc_info=error)
        detail = f"the export cannot be written: {error.strerror or error}; its operator can make room"
        raise Problem(problems.NO_ROOM, detail) from None


def _reader(queue: JobQueue, job: Job, stack: ExitStack) -> Callable[[int], bytes]:
    source = stack.enter_context(queue.source(job))
    return lambda position: source[position].read()


def _reader_or_why(queue: JobQueue, job: Job, stack: ExitStack) -> Callable[[int], bytes]:
    """As `_reader`; where the pictures are gone, the page is without them and says why."""
    try:
        return _reader(queue, job, stack)
    except SourceError as error:
        reason = str(error)

    def read(position: int) -> bytes:
        raise OSError(reason)

    return read
