"""Other review thresholds of a job: its labels are copied with other reasons, on SQLite and on PostgreSQL."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import sqlalchemy as sa

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Box
from server.store import CompletedImage, ImageAnnotations, JobSpec
from server.store.jobs.job_store import JobStore
from server.store.jobs.records import JobChangedError
from server.store.tables import AnnotationsRow

OLD = JobSpec("out", '{"name":"old"}', "a" * 64, "images", "f" * 32, "b" * 64)
NEW = replace(OLD, recipe='{"name":"new"}', recipe_hash="c" * 64)
TRACE = TracedAnnotation(Box(label="cat", score=0.4, box=(0, 0, 9, 9)), "things", "Locate", "cat<loc_0>", "d" * 64)


def mark(traces: Sequence[TracedAnnotation]) -> list[TracedAnnotation]:
    return [replace(trace, review="low") for trace in traces]


def test_labels_get_other_reasons_and_the_images_are_not_labeled_again(url: str) -> None:
    with JobStore(url) as store:
        job = store.start(store.get_or_create_job(OLD, [f"{i}.png" for i in range(4)]))
        leases = store.open_leases(job, "one", 60)
        leases.acquire(4)
        results = [ImageAnnotations(str(i // 2) * 64, 9, 9, (TRACE,) * (1 + i // 2)) for i in range(3)]
        leases.complete([CompletedImage(i, result) for i, result in enumerate(results)])  # 0 and 1 are the same file
        changed, count = store.change_reviews(job, NEW, mark)
        assert count == 3
        assert (changed.spec.recipe, changed.spec.recipe_hash) == (NEW.recipe, NEW.recipe_hash)
        assert [[trace.review for trace in image.traces] for image in store.iter_images(changed)] == [
            ["low"], ["low"], ["low", "low"],
        ]  # fmt: skip
        assert [replace(trace, review="") for image in store.iter_images(changed) for trace in image.traces] == [
            TRACE
        ] * 4
        progress = store.get_progress(changed)
        assert (progress.done, progress.unfinished) == (3, 1)
        late = [CompletedImage(3, ImageAnnotations("9" * 64, 9, 9, (TRACE,)))]
        assert leases.complete(late) == set(), "labels of the recipe before are not those of the job"
        with store.database.begin_read() as connection:
            hashes = connection.scalars(sa.select(AnnotationsRow.recipe_hash).order_by(AnnotationsRow.id)).all()
        assert sorted(hashes) == [OLD.recipe_hash] * 3 + [NEW.recipe_hash] * 2, "the labels of before stay stored"
        with pytest.raises(JobChangedError):
            store.change_reviews(job, NEW, mark)

        back, count = store.change_reviews(changed, OLD, lambda traces: traces)
        assert count == 3
        assert [trace.review for image in store.iter_images(back) for trace in image.traces] == [""] * 4
