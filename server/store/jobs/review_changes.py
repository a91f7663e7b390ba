"""Changes which labels of a job are to review, without labeling its images again."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from labels.labeled_image import TracedAnnotation
from server.store.database import Database
from server.store.jobs.job_changes import lock_job
from server.store.jobs.leases import TRACES
from server.store.jobs.records import ImageState, Job, JobChangedError, JobSpec
from server.store.tables import AnnotationsRow, JobImageRow, JobRow

_BATCH = 500  # images at a time


def change_reviews(
    database: Database,
    job: Job,
    spec: JobSpec,
    change: Callable[[Sequence[TracedAnnotation]], Sequence[TracedAnnotation]],
) -> int:
    """Changes the reviews of a job as JobStore.change_reviews says, in one transaction."""
    with database.begin_write() as connection:
        row = lock_job(connection, job)
        if row.recipe_hash != job.spec.recipe_hash:
            raise JobChangedError(job)
        count = 0
        for batch in _iter_rows(connection, job):
            copies = {
                (each.image_sha256, each.version): {
                    "image_sha256": each.image_sha256,
                    "recipe_hash": spec.recipe_hash,
                    "model_hash": job.spec.model_hash,
                    "version": each.version,
                    "width": each.width,
                    "height": each.height,
                    "annotations": _change(each.annotations, change),
                    "dropped": each.dropped,
                    "created": each.created,
                }
                for each in batch
            }
            # Sorted, so that two processes with the same images cannot deadlock.
            insert = database.insert(AnnotationsRow).on_conflict_do_nothing()
            connection.execute(insert, [copies[key] for key in sorted(copies)])
            stored = sa.select(AnnotationsRow.image_sha256, AnnotationsRow.version, AnnotationsRow.id).where(
                AnnotationsRow.image_sha256.in_([sha256 for sha256, _ in copies]),
                AnnotationsRow.recipe_hash == spec.recipe_hash,
                AnnotationsRow.model_hash == job.spec.model_hash,
            )
            ids = {(each.image_sha256, each.version): each.id for each in connection.execute(stored)}
            columns = JobImageRow.__table__.c
            update = sa.update(JobImageRow.__table__).where(  # type: ignore[arg-type]
                columns.job_id == job.id, columns.position == sa.bindparam("reviewed")
            )
            rows = [{"reviewed": each.position, "row": ids[each.image_sha256, each.version]} for each in batch]
            connection.execute(update.values(annotations_id=sa.bindparam("row")), rows)
            count += len(batch)
        # A worker that has leased an image would complete it with labels of the recipe before.
        leased = JobImageRow.job_id == job.id, JobImageRow.state == ImageState.LEASED
        released = {"state": ImageState.WAITING, "lease_owner": None, "available_at": 0.0}
        connection.execute(sa.update(JobImageRow).where(*leased).values(**released))
        values = {"recipe": spec.recipe, "recipe_hash": spec.recipe_hash}
        connection.execute(sa.update(JobRow).where(JobRow.id == job.id).values(**values))
        return count


def _iter_rows(connection: sa.Connection, job: Job) -> Iterator[Sequence[Any]]:
    """Yields the images with annotations of the job's recipe and model, in batches."""
    query = (
        sa.select(JobImageRow.position, AnnotationsRow.__table__)
        .join(AnnotationsRow, AnnotationsRow.id == JobImageRow.annotations_id)
        .where(
            JobImageRow.job_id == job.id,
            AnnotationsRow.recipe_hash == job.spec.recipe_hash,
            AnnotationsRow.model_hash == job.spec.model_hash,
        )
        .order_by(JobImageRow.position)
        .limit(_BATCH)
    )
    last = -1
    while rows := connection.execute(query.where(JobImageRow.position > last)).all():
        yield rows
        last = rows[-1].position


def _change(annotations: str, change: Callable[[Sequence[TracedAnnotation]], Sequence[TracedAnnotation]]) -> str:
    traces = change(TRACES.validate_json(annotations))
    return TRACES.dump_json(tuple(traces), exclude={"__all__": {"attributes"}}).decode()
