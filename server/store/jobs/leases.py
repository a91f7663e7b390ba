"""Leases: which worker works on which image of a job."""

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from labels.dropped_labels import DroppedLabel
from labels.labeled_image import TracedAnnotation
from server.store.database import Database
from server.store.jobs.records import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    ImageState,
    Job,
    JobChangedError,
    JobSpec,
    LeasedImage,
)
from server.store.tables import AnnotationsRow, JobImageRow, JobRow
from server.store.text import clean_text

MAX_ATTEMPTS = 3  # of an image whose failures are not final
# A process that is killed at any moment must not make a good image look broken. So after the first crash the image is
# processed alone, and only this many crashes show that the image is the cause.
MAX_CRASHES = 6
TRACES = TypeAdapter(tuple[TracedAnnotation, ...])
_NOT_STORED: Any = {"__all__": {"attributes"}}  # made from the annotations when they are exported
_LABELED_SHA256 = (
    sa.select(AnnotationsRow.image_sha256).where(AnnotationsRow.id == JobImageRow.annotations_id).scalar_subquery()
)
DROPPED = TypeAdapter(tuple[DroppedLabel, ...])


class JobLeases:
    """The images of a job that one worker has leased. Created by `JobStore.open_leases`.

    `owner` is a name that no other worker has. Leases expire `seconds` after the last `acquire` or `renew`. Methods
    raise what the store raises.
    """

    def __init__(self, database: Database, job: Job, owner: str, seconds: float) -> None:
        self._database, self.job, self.owner, self.seconds = database, job, owner, seconds

    def acquire(self, count: int) -> list[LeasedImage]:
        """Leases up to `count` more images, in order. Skips images with which a worker crashed. Raises
        JobChangedError."""
        return self._acquire(count, ImageState.WAITING, JobImageRow.crashes == 0)

    def acquire_suspect(self) -> LeasedImage | None:
        """Leases an image with which a worker crashed. Marks an image as failed after MAX_CRASHES crashes. Raises
        JobChangedError."""
        leased = self._acquire(1, ImageState.LEASED)
        return next(iter(leased or self._acquire(1, ImageState.WAITING, JobImageRow.crashes > 0)), None)

    def renew(self) -> None:
        """Extends all leases by `seconds`."""
        with self._database.begin_write() as connection:
            available_at = self._database.now() + self.seconds
            connection.execute(
                sa.update(JobImageRow).where(*self._get_own_conditions()).values(available_at=available_at)
            )

    def release(self) -> None:
        """Releases all leased images, so that any worker can lease them."""
        values = {"state": ImageState.WAITING, "lease_owner": None, "available_at": 0.0}
        with self._database.begin_write() as connection:
            connection.execute(sa.update(JobImageRow).where(*self._get_own_conditions()).values(**values))

    def complete(self, images: Sequence[CompletedImage]) -> set[int]:
        """Stores annotations and marks the images as done that are still leased. Returns their positions.

        If the same recipe and model already annotated the same image, those annotations stay and are used.
        """
        spec = self.job.spec
        rows = {image.result.sha256: self._to_row(image.result) for image in images}
        with self._database.begin_write() as connection:
            # Sorted, so that two workers with the same images cannot deadlock.
            insert = self._database.insert(AnnotationsRow).on_conflict_do_nothing()
            connection.execute(insert, [rows[sha256] for sha256 in sorted(rows)])
            stored = sa.select(AnnotationsRow.image_sha256, AnnotationsRow.id).where(*_get_conditions(spec, list(rows)))
            ids = {row.image_sha256: row.id for row in connection.execute(stored.order_by(AnnotationsRow.version))}
            mine = self._get_own_conditions([image.position for image in images])
            leased = set(connection.scalars(sa.select(JobImageRow.position).where(*mine).with_for_update()))
            changes = [
                {"done_position": image.position, "row_id": ids[image.result.sha256], "row_stamp": image.stamp}
                for image in images
                if image.position in leased
            ]
            if changes:
                columns = JobImageRow.__table__.c
                change = sa.update(JobImageRow.__table__).where(  # type: ignore[arg-type]
                    columns.job_id == self.job.id, columns.position == sa.bindparam("done_position")
                )
                change = change.values(
                    annotations_id=sa.bindparam("row_id"), stamp=sa.bindparam("row_stamp"), state=ImageState.DONE,
                    failure_kind="", failure_reason="", lease_owner=None,
                )  # fmt: skip
                connection.execute(change, changes)
            return leased

    def fail(self, failures: Sequence[FailedImage], delay: float = 1.0) -> list[FailedImage]:
        """Counts a failed attempt for each image that is still leased, and returns those that failed for good.

        The others can be leased again after `delay` seconds times their number of attempts.
        """
        failed = []
        with self._database.begin_write() as connection:
            for failure in failures:
                attempts = failure.attempts + 1
                final = failure.final or attempts >= MAX_ATTEMPTS
                values = {
                    "state": ImageState.FAILED if final else ImageState.WAITING,
                    "available_at": 0.0 if final else self._database.now() + delay * attempts,
                    "attempts": attempts,
                    "failure_kind": failure.kind,
                    "failure_reason": clean_text(failure.reason),
                    "stamp": failure.stamp,
                    "lease_owner": None,
                }
                change = sa.update(JobImageRow).where(*self._get_own_conditions([failure.position])).values(**values)
                if connection.execute(change).rowcount and final:
                    failed.append(failure)
        return failed

    def _acquire(self, count: int, state: ImageState, *conditions: sa.ColumnElement[bool]) -> list[LeasedImage]:
        """Leases up to `count` images in a state. The state LEASED selects images with an expired lease."""
        crashed = state is ImageState.LEASED
        with self._database.begin_write() as connection:
            self._check_job(connection)
            found = connection.execute(
                sa.select(
                    JobImageRow.position,
                    JobImageRow.name,
                    JobImageRow.attempts,
                    JobImageRow.crashes,
                    _LABELED_SHA256.label("sha256"),
                )
                .where(
                    JobImageRow.job_id == self.job.id,
                    JobImageRow.state == state,
                    JobImageRow.available_at <= self._database.now(),
                    *conditions,
                )
                .order_by(JobImageRow.position)
                .limit(count)
                .with_for_update(skip_locked=True)
            ).all()
            leased = [row for row in found if row.crashes + crashed < MAX_CRASHES]
            failed = [row for row in found if row.crashes + crashed >= MAX_CRASHES]
            lease = {
                "state": ImageState.LEASED,
                "lease_owner": self.owner,
                "available_at": self._database.now() + self.seconds,
            }
            failure = {
                "state": ImageState.FAILED,
                "lease_owner": None,
                "failure_kind": "crash",
                "failure_reason": f"the process crashed {MAX_CRASHES} times while it processed this image",
            }
            for rows, values in ((leased, lease), (failed, failure)):
                if rows:
                    positions = [row.position for row in rows]
                    connection.execute(
                        sa.update(JobImageRow)
                        .where(JobImageRow.job_id == self.job.id, JobImageRow.position.in_(positions))
                        .values(crashes=JobImageRow.crashes + int(crashed), **values)
                    )
            return [LeasedImage(row.position, row.name, row.attempts, row.sha256) for row in leased]

    def _check_job(self, connection: sa.Connection) -> None:
        """Raises JobChangedError if the job is not the one of these leases any more. Until the end of the transaction,
        nobody changes it."""
        spec = self.job.spec
        same = (
            JobRow.id == self.job.id,
            JobRow.recipe_hash == spec.recipe_hash,
            JobRow.model_hash == spec.model_hash,
            JobRow.fingerprint == spec.fingerprint,
        )
        query = sa.select(JobRow.id).where(*same).with_for_update(read=True, key_share=True)
        if connection.scalar(query) is None:
            raise JobChangedError(self.job)

    def _get_own_conditions(self, positions: Sequence[int] | None = None) -> list[sa.ColumnElement[bool]]:
        """Returns the conditions for images that the owner has leased, optionally only at these positions."""
        conditions = [
            JobImageRow.job_id == self.job.id,
            JobImageRow.state == ImageState.LEASED,
            JobImageRow.lease_owner == self.owner,
        ]
        return conditions if positions is None else [*conditions, JobImageRow.position.in_(positions)]

    def _to_row(self, result: ImageAnnotations) -> dict[str, Any]:
        return {
            "image_sha256": result.sha256,
            "recipe_hash": self.job.spec.recipe_hash,
            "model_hash": self.job.spec.model_hash,
            "version": 1,
            "width": result.width,
            "height": result.height,
            "annotations": TRACES.dump_json(result.traces, exclude=_NOT_STORED).decode(),
            "dropped": DROPPED.dump_json(result.dropped).decode(),
            "created": time.time(),
        }


def _get_conditions(spec: JobSpec, hashes: Sequence[str]) -> tuple[sa.ColumnElement[bool], ...]:
    """Returns the conditions for annotations of these images by a job's recipe and model."""
    return (
        AnnotationsRow.image_sha256.in_(hashes),
        AnnotationsRow.recipe_hash == spec.recipe_hash,
        AnnotationsRow.model_hash == spec.model_hash,
    )
