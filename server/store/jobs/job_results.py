"""What jobs have produced: labeled images and failures. Each chunk is read in a transaction of its own."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from labels.dropped_labels import DroppedLabel, merge_dropped
from labels.labeled_image import LabeledImage
from server.store.database import Database
from server.store.jobs.leases import DROPPED, TRACES
from server.store.jobs.records import FailedImage, ImageState, Job
from server.store.pages import Page, plan_page, plan_selection
from server.store.tables import AnnotationsRow, JobImageRow

ReadImage = Callable[[str], bytes]
"""Returns the bytes of the image file with a name. Raises OSError."""

_PAGE = 500  # images read at a time, or fewer if they are large
_SELECT_IMAGES = sa.select(
    JobImageRow.position, JobImageRow.name, AnnotationsRow.image_sha256, AnnotationsRow.width, AnnotationsRow.height,
    AnnotationsRow.annotations,
).join(AnnotationsRow)  # fmt: skip
_SELECT_FAILURES = sa.select(
    JobImageRow.position, JobImageRow.failure_kind, JobImageRow.failure_reason, JobImageRow.name, JobImageRow.attempts
)


class JobResults:
    """Reads the results of jobs. A part of JobStore.

    Attributes:
        database: The database of the jobs.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def plan_images(self, job: Job, after: int, limit: int) -> Page:
        """Returns a page of the labeled images after a position, in order."""
        joined = sa.and_(*_has_state(job, ImageState.DONE), AnnotationsRow.id == JobImageRow.annotations_id)
        return plan_page(self.database, JobImageRow.position, joined, after, limit, AnnotationsRow.annotations)

    def plan_selection(self, job: Job, positions: Sequence[int]) -> Page:
        """Returns a page of the labeled images at these positions, in this order."""
        joined = sa.and_(*_has_state(job, ImageState.DONE), AnnotationsRow.id == JobImageRow.annotations_id)
        return plan_selection(self.database, JobImageRow.position, joined, positions, AnnotationsRow.annotations)

    def list_images(self, job: Job, positions: Sequence[int]) -> list[tuple[int, LabeledImage]]:
        """Returns the labeled images at these positions, with their positions."""
        return [(row.position, _to_image(row, None)) for row in self._select_images(job, positions)]

    def plan_failures(self, job: Job, after: int, limit: int) -> Page:
        """Returns a page of the failed images after a position, in order."""
        has_failed = sa.and_(*_has_state(job, ImageState.FAILED))
        columns = JobImageRow.name, JobImageRow.failure_reason
        return plan_page(self.database, JobImageRow.position, has_failed, after, limit, *columns)

    def list_failures(self, job: Job, positions: Sequence[int]) -> list[FailedImage]:
        """Returns the failed images at these positions."""
        query = _SELECT_FAILURES.where(*_has_state(job, ImageState.FAILED), JobImageRow.position.in_(positions))
        with self.database.begin_read() as connection:
            return list(map(_to_failure, connection.execute(query.order_by(JobImageRow.position))))

    def iter_failures(self, job: Job, after: int = -1) -> Iterator[FailedImage]:
        """Yields the failed images after a position, in order."""
        while True:
            page = self.plan_failures(job, after, _PAGE)
            for positions in page.chunks:
                yield from self.list_failures(job, positions)
            if page.next is None:
                return
            after = page.next

    def get_image_name(self, job: Job, position: int) -> str | None:
        """Returns the name of the image at a position; None if there is none."""
        query = sa.select(JobImageRow.name).where(JobImageRow.job_id == job.id, JobImageRow.position == position)
        with self.database.begin_read() as connection:
            return connection.scalar(query)

    def iter_images(self, job: Job, read: ReadImage | None = None, after: int = -1) -> Iterator[LabeledImage]:
        """Yields the labeled images after a position, in order, with few in memory at a time.

        `read` returns the bytes of the image file with a name; None: the images have no file. Reading an image whose
        file is not the one that was labeled raises OSError.
        """
        return (image for _, image in self.iter_images_with_positions(job, read, after))

    def iter_images_with_positions(
        self, job: Job, read: ReadImage | None = None, after: int = -1
    ) -> Iterator[tuple[int, LabeledImage]]:
        """Yields the same images as `iter_images`, each with its position."""
        while True:
            page = self.plan_images(job, after, _PAGE)
            for positions in page.chunks:
                for row in self._select_images(job, positions):
                    yield row.position, _to_image(row, read)
            if page.next is None:
                return
            after = page.next

    def count_dropped(self, job: Job) -> tuple[tuple[DroppedLabel, ...], int]:
        """Returns the labels that the recipe did not keep, most frequent first, and the number of labeled images for
        which they were not counted: those of a florist that did not count them."""
        query = sa.select(AnnotationsRow.dropped, sa.func.count().label("images")).select_from(JobImageRow)
        query = query.join(AnnotationsRow).where(*_has_state(job, ImageState.DONE)).group_by(AnnotationsRow.dropped)
        uncounted = 0

        def iter_counts(rows: Iterable[Any]) -> Iterator[DroppedLabel]:
            nonlocal uncounted
            for row in rows:
                if row.dropped is None:
                    uncounted = row.images
                for each in DROPPED.validate_json(row.dropped or "[]"):
                    yield replace(each, count=each.count * row.images)

        with self.database.begin_read() as connection:
            rows = connection.execution_options(yield_per=_PAGE).execute(query)
            return merge_dropped(iter_counts(rows)), uncounted

    def _select_images(self, job: Job, positions: Sequence[int]) -> list[Any]:
        query = _SELECT_IMAGES.where(*_has_state(job, ImageState.DONE), JobImageRow.position.in_(positions))
        with self.database.begin_read() as connection:
            return list(connection.execute(query.order_by(JobImageRow.position)))


def _has_state(job: Job, state: ImageState) -> tuple[sa.ColumnElement[bool], ...]:
    """Returns the conditions for the images of a job in a state."""
    return JobImageRow.job_id == job.id, JobImageRow.state == state


def _to_failure(row: Any) -> FailedImage:
    return FailedImage(
        row.position, row.failure_kind, row.failure_reason, final=True, name=row.name, attempts=row.attempts
    )


def _to_image(row: Any, read: ReadImage | None) -> LabeledImage:
    traces = TRACES.validate_json(row.annotations)
    opened = bytes if read is None else partial(_read_labeled, read, row.name, row.image_sha256)
    return LabeledImage.from_traces(row.name, row.width, row.height, traces, opened, sha256=row.image_sha256)


def _read_labeled(read: ReadImage, name: str, sha256: str) -> bytes:
    data = read(name)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OSError("its file has changed since it was labeled")
    return data
