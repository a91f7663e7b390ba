"""The job store: jobs, their images and their annotations, in a database.

Every change is one transaction. Several processes on several machines can work on one job: each leases images, and only
the owner of a lease can complete the image. If a worker dies, its leases expire and other workers take over.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any, Self, cast

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from labels.labeled_image import TracedAnnotation
from server.store.database import MAX_WAIT, Database
from server.store.jobs.job_changes import (
    ImageChanges,
    SourceListing,
    count_labeled,
    estimate_rate,
    list_differences,
    update_job,
)
from server.store.jobs.job_results import JobResults
from server.store.jobs.leases import DROPPED, TRACES, JobLeases
from server.store.jobs.records import (
    ImageAnnotations,
    ImageState,
    InvalidStateError,
    Job,
    JobMismatchError,
    JobProgress,
    JobSpec,
    JobState,
    UnknownJobError,
)
from server.store.jobs.review_changes import change_reviews
from server.store.pages import Page, plan_page
from server.store.tables import UNFINISHED_STATES, AnnotationsRow, JobImageRow, JobRow
from server.store.text import clean_text, redact_address

# Built once, since it runs for every image.
_NEWEST_ANNOTATIONS = (
    sa.select(
        AnnotationsRow.image_sha256, AnnotationsRow.width, AnnotationsRow.height, AnnotationsRow.annotations,
        AnnotationsRow.dropped,
    )
    .where(
        AnnotationsRow.image_sha256 == sa.bindparam("image_sha256"),
        AnnotationsRow.recipe_hash == sa.bindparam("recipe_hash"),
        AnnotationsRow.model_hash == sa.bindparam("model_hash"),
    )
    .order_by(AnnotationsRow.version.desc())
    .limit(1)
)  # fmt: skip
_BATCH = 10_000  # rows inserted at a time


class JobStore(JobResults):
    """The jobs of a database. Safe to use from any thread.

    Methods raise StoreError, and StoreUnavailableError if the same call can be repeated.
    """

    def __init__(self, url: str, *, read_only: bool = False, max_wait: float = MAX_WAIT) -> None:
        """Opens the database and creates or upgrades its tables. With `read_only`, the tables stay as they are and
        writes fail; other processes can still write. `max_wait`: seconds that a transaction waits for others."""
        super().__init__(Database(url, read_only=read_only, max_wait=max_wait))

    def close(self) -> None:
        """Closes the connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Jobs

    def get_or_create_job(
        self,
        spec: JobSpec,
        names: Iterable[str],
        compare_recipes: Callable[[str, str], Sequence[str]] = lambda old, new: ["the recipe has changed"],
    ) -> Job:
        """Returns the job of the output, or creates it with images of these names, in this order.

        `compare_recipes` describes the differences between two recipes, one a line. Raises JobMismatchError if the
        output already belongs to a job with another spec.
        """
        if (job := self.find_job(spec.output)) is None:
            try:
                return self._create(spec, names)
            except IntegrityError:  # another process was faster
                job = self.find_job(spec.output)
                assert job is not None
        old, lines = job.spec, list_differences(job.spec, spec, compare_recipes)
        if old.fingerprint != spec.fingerprint:
            addresses = dict.fromkeys(redact_address(source) for source in (old.source, spec.source))
            lines.append(f"source: {', now '.join(addresses)} does not contain the same images as when the job started")
        if lines:
            raise JobMismatchError(spec.output, lines, job, spec)
        return job

    def update_job(
        self, job: Job, spec: JobSpec, source: SourceListing, *, may_remove: bool = True, relabel: bool = False
    ) -> tuple[Job, ImageChanges]:
        """Adds the images that are new in the source to the job, and marks those that are no longer there and those
        that may have changed. Returns the job, and what has changed.

        The job gets the recipe, the model and the source of `spec`. If the recipe or the model differ, or with
        `relabel`, all images are labeled again; stored annotations of the same recipe and model are used. A job that
        has ended is queued again if there is something to label. A job that has not ended, with an unchanged source,
        stays as it is.

        Raises InvalidStateError if the job is cancelled, and JobMismatchError without `may_remove` if the source lacks
        an image.
        """
        with self.database.begin_write() as connection:
            changes = update_job(connection, job, spec, source, may_remove=may_remove, relabel=relabel)
        return self.get_job(job.id), changes

    def change_reviews(
        self, job: Job, spec: JobSpec, change: Callable[[Sequence[TracedAnnotation]], Sequence[TracedAnnotation]]
    ) -> tuple[Job, int]:
        """Gives the job the recipe of `spec`, and its annotations the reasons for review that `change` gives those of
        an image. Returns the job, and the number of its images with annotations.

        The annotations of the recipe before stay stored. Raises JobChangedError if the job has another recipe by now.
        """
        count = change_reviews(self.database, job, spec, change)
        return self.get_job(job.id), count

    def estimate_rate(self, job: Job) -> float | None:
        """Returns how many images per second were labeled when the job last ran, without pauses; None if unknown."""
        with self.database.begin_read() as connection:
            return estimate_rate(connection, job)

    def count_labeled(self, job: Job, recipe_hash: str, model_hash: str) -> int:
        """Returns for how many images of the job there are annotations of another recipe and model."""
        with self.database.begin_read() as connection:
            return count_labeled(connection, job, recipe_hash, model_hash)

    def get_job(self, job_id: int) -> Job:
        """Returns a job by its ID. Raises UnknownJobError."""
        if not (jobs := self._select_jobs(JobRow.id == job_id)):
            raise UnknownJobError(f"there is no job {job_id}")
        return jobs[0]

    def find_job(self, output: str) -> Job | None:
        """Returns the job that writes to an output; None if there is none."""
        return next(iter(self._select_jobs(JobRow.output == output)), None)

    def plan_jobs(self, after: int, limit: int, options: str) -> Page:
        """Returns a page of the jobs with these `options` and an ID above `after`, oldest first."""
        return plan_page(
            self.database, JobRow.id, JobRow.options == options, after, limit, JobRow.recipe, JobRow.source
        )

    def list_jobs(self, ids: Sequence[int] | None = None, options: str | None = None) -> list[Job]:
        """Returns the jobs with these IDs, or all, oldest first; with `options` only those with these."""
        has_options = sa.true() if options is None else JobRow.options == options
        return self._select_jobs(sa.and_(sa.true() if ids is None else JobRow.id.in_(ids), has_options))

    def list_jobs_by_source(self, prefix: str) -> dict[str, list[Job]]:
        """Returns the jobs whose source begins with `prefix`, by source, oldest first."""
        found: dict[str, list[Job]] = {}
        for job in self._select_jobs(JobRow.source.startswith(prefix, autoescape=True)):
            found.setdefault(job.spec.source, []).append(job)
        return found

    def find_runnable(self, options: str, prefix: str | None = None, sources: Collection[str] = ()) -> Job | None:
        """Returns the oldest queued or running job with these `options`; None if there is none.

        Jobs whose source begins with `prefix` are left out, but for those of `sources`.
        """
        conditions = [JobRow.options == options, JobRow.state.in_((JobState.QUEUED, JobState.RUNNING))]
        if prefix is not None:
            is_elsewhere = JobRow.source.startswith(prefix, autoescape=True)
            conditions.append(sa.or_(~is_elsewhere, JobRow.source.in_(sources)))
        return next(iter(self._select_jobs(sa.and_(*conditions), 1)), None)

    def start(self, job: Job) -> Job:
        """Marks the job as running, unless it is paused or has ended."""
        self._set_state(job, JobState.RUNNING, (JobState.QUEUED, JobState.RUNNING))
        return self.get_job(job.id)

    def pause(self, job: Job) -> Job:
        """Pauses the job: its workers finish their current images and stop. Raises InvalidStateError."""
        return self._change_state(job, JobState.PAUSED, (JobState.QUEUED, JobState.RUNNING), "paused")

    def resume(self, job: Job) -> Job:
        """Queues a paused or failed job again. Raises InvalidStateError."""
        return self._change_state(job, JobState.QUEUED, (JobState.PAUSED, JobState.FAILED), "resumed")

    def cancel(self, job: Job) -> Job:
        """Cancels the job permanently: its workers drop their current images. Finished annotations are kept. Raises
        InvalidStateError."""
        states = (JobState.QUEUED, JobState.RUNNING, JobState.PAUSED, JobState.FAILED)
        return self._change_state(job, JobState.CANCELLED, states, "cancelled")

    def finish(self, job: Job) -> Job:
        """Marks the job as done if it is running and all its images are done or failed."""
        unfinished = sa.select(JobImageRow.position).where(
            JobImageRow.job_id == job.id, JobImageRow.state.in_(UNFINISHED_STATES)
        )
        self._set_state(job, JobState.DONE, (JobState.RUNNING,), ~unfinished.exists())
        return self.get_job(job.id)

    def fail(self, job: Job, reason: str) -> None:
        """Marks the whole job as failed."""
        self._set_state(job, JobState.FAILED, (JobState.QUEUED, JobState.RUNNING), reason=reason)

    def retry_failed(self, job: Job, kind: str | None = None) -> int:
        """Queues the failed images again, or those with one kind of failure, and returns their number.

        A job that was done is queued again.
        """
        with self.database.begin_write() as connection:
            of_kind = sa.true() if kind is None else JobImageRow.failure_kind == kind
            reset = connection.execute(
                sa.update(JobImageRow)
                .where(JobImageRow.job_id == job.id, JobImageRow.state == ImageState.FAILED, of_kind)
                .values(
                    state=ImageState.WAITING, attempts=0, crashes=0, failure_kind="", failure_reason="",
                    available_at=0.0,
                )
            )  # fmt: skip
            if reset.rowcount:
                connection.execute(
                    sa.update(JobRow)
                    .where(JobRow.id == job.id, JobRow.state == JobState.DONE)
                    .values(state=JobState.QUEUED, ended=None)
                )
            return reset.rowcount

    # Images

    def open_leases(self, job: Job, owner: str, seconds: float) -> JobLeases:
        """Returns the leases of a worker on the job. `owner` is a name that no other worker has."""
        return JobLeases(self.database, job, owner, seconds)

    def expire_leases(self, job: Job) -> None:
        """Expires all leases of the job. Call it only if nobody else works on the job."""
        with self.database.begin_write() as connection:
            leased = JobImageRow.job_id == job.id, JobImageRow.state == ImageState.LEASED
            connection.execute(sa.update(JobImageRow).where(*leased).values(available_at=0.0))

    def find_annotations(self, job: Job, sha256: str) -> ImageAnnotations | None:
        """Returns the newest annotations of an image by the job's recipe and model; None if there are none."""
        spec = job.spec
        key = {"image_sha256": sha256, "recipe_hash": spec.recipe_hash, "model_hash": spec.model_hash}
        with self.database.begin_read() as connection:
            row = connection.execute(_NEWEST_ANNOTATIONS, key).first()
        return None if row is None else _to_annotations(row)

    def get_progress(self, job: Job) -> JobProgress:
        """Returns the number of the job's images in each state."""
        with self.database.begin_read() as connection:
            rows = connection.execute(
                sa.select(JobImageRow.state, JobImageRow.failure_kind, sa.func.count().label("images"))
                .where(JobImageRow.job_id == job.id)
                .group_by(JobImageRow.state, JobImageRow.failure_kind)
                .order_by(JobImageRow.failure_kind)
            ).all()
        counts: dict[str, int] = {}
        for row in rows:
            counts[row.state] = counts.get(row.state, 0) + row.images
        kinds = {row.failure_kind: row.images for row in rows if row.state == ImageState.FAILED}
        return JobProgress(**counts, failures_by_kind=kinds)

    def count_workers(self, job: Job) -> int:
        """Returns the number of workers with leases on the job. A worker that died counts until its leases expire."""
        active = (
            JobImageRow.job_id == job.id,
            JobImageRow.state == ImageState.LEASED,
            JobImageRow.available_at > self.database.now(),
        )
        owners = sa.select(sa.func.count(sa.distinct(JobImageRow.lease_owner))).where(*active)
        with self.database.begin_read() as connection:
            return connection.scalar(owners) or 0

    # Internals

    def _create(self, spec: JobSpec, names: Iterable[str]) -> Job:
        """Creates the job with all its images in one transaction."""
        with self.database.begin_write() as connection:
            job_id = connection.scalar(
                sa.insert(JobRow)
                .values(
                    output=spec.output, recipe=spec.recipe, recipe_hash=spec.recipe_hash, source=spec.source,
                    fingerprint=spec.fingerprint, model_hash=spec.model_hash, options=spec.options,
                    state=JobState.QUEUED, reason="", created=time.time(),
                )
                .returning(JobRow.id)
            )  # fmt: skip
            rows = ({"job_id": job_id, "position": i, "name": clean_text(name)} for i, name in enumerate(names))
            while batch := list(islice(rows, _BATCH)):
                connection.execute(sa.insert(JobImageRow), batch)
        return self.get_job(cast(int, job_id))

    def _select_jobs(self, where: sa.ColumnElement[bool], limit: int | None = None) -> list[Job]:
        query = sa.select(JobRow.__table__).where(where).order_by(JobRow.id).limit(limit)
        with self.database.begin_read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_to_job(row) for row in rows]

    def _set_state(
        self, job: Job, state: JobState, allowed: Sequence[JobState], *where: sa.ColumnElement[bool], reason: str = ""
    ) -> bool:
        """Changes the job's state if it is one of `allowed`, and returns whether it did."""
        values: dict[str, Any] = {"state": state, "reason": clean_text(reason)}
        if state is JobState.RUNNING:
            values["started"] = sa.func.coalesce(JobRow.started, time.time())
        values["ended"] = time.time() if state in (JobState.DONE, JobState.CANCELLED, JobState.FAILED) else None
        with self.database.begin_write() as connection:
            change = sa.update(JobRow).where(JobRow.id == job.id, JobRow.state.in_(allowed), *where)
            return bool(connection.execute(change.values(**values)).rowcount)

    def _change_state(self, job: Job, state: JobState, allowed: Sequence[JobState], verb: str) -> Job:
        """Changes the job's state and returns the job. Raises InvalidStateError."""
        if not self._set_state(job, state, allowed) and self.get_job(job.id).state is not state:
            current = self.get_job(job.id).state
            raise InvalidStateError(f"job {job.id} is {current}; only {' or '.join(allowed)} jobs can be {verb}")
        return self.get_job(job.id)


def _to_job(row: Any) -> Job:
    spec = JobSpec(**{field.name: row[field.name] for field in fields(JobSpec)})
    return Job(row["id"], spec, JobState(row["state"]), row["reason"], row["created"], row["started"], row["ended"])


def _to_annotations(row: Any) -> ImageAnnotations:
    traces, dropped = TRACES.validate_json(row.annotations), DROPPED.validate_json(row.dropped or "[]")
    return ImageAnnotations(row.image_sha256, row.width, row.height, traces, dropped)
