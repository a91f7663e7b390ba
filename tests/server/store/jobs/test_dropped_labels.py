"""The labels that jobs did not keep, on SQLite and on PostgreSQL."""

import sqlalchemy as sa

from labels.dropped_labels import OTHER_LABELS, DroppedLabel, DropReason, count_dropped, merge_dropped
from server.store import CompletedImage, ImageAnnotations, JobSpec
from server.store.jobs.job_store import JobStore
from server.store.tables import AnnotationsRow

SPEC = JobSpec("out", "{}", "a" * 64, "images", "f" * 32, "b" * 64)


def make_dropped(label: str, count: int = 1, step: str = "things") -> DroppedLabel:
    return DroppedLabel(step, label, DropReason.NO_CLASS, count)


def test_many_workers_count_what_every_image_dropped_once(url: str) -> None:
    with JobStore(url) as store:
        job = store.start(store.get_or_create_job(SPEC, [f"{i}.png" for i in range(5)]))
        assert store.count_dropped(job) == ((), 0)
        one, two = (store.open_leases(job, owner, 60) for owner in ("one", "two"))
        results = [
            ImageAnnotations("0" * 64, 9, 9, (), (make_dropped("cat", 2), make_dropped("a\ndog"))),
            ImageAnnotations("1" * 64, 9, 9, (), (make_dropped("cat"),)),
            ImageAnnotations("2" * 64, 9, 9, ()),
        ]
        assert len(one.acquire(3)) == 3
        assert len(two.acquire(3)) == 2
        one.complete([CompletedImage(i, result) for i, result in enumerate(results)])
        # The same image under another name; another worker that found other labels does not replace the first.
        two.complete([CompletedImage(3, ImageAnnotations("0" * 64, 9, 9, (), (make_dropped("bird"),)))])
        found = store.find_annotations(job, "0" * 64)
        assert found is not None
        assert found.dropped == results[0].dropped
        assert store.count_dropped(job) == ((make_dropped("cat", 5), make_dropped("a\ndog", 2)), 0)
        with store.database.begin_write() as connection:  # as a florist wrote it that did not count
            change = sa.update(AnnotationsRow).where(AnnotationsRow.image_sha256 == "0" * 64).values(dropped=None)
            connection.execute(change)
        assert store.count_dropped(job) == ((make_dropped("cat"),), 2)
        other = store.get_or_create_job(JobSpec("other", "{}", "c" * 64, "images", "f" * 32, "b" * 64), ["0.png"])
        assert store.count_dropped(other) == ((), 0)


def test_long_and_very_many_labels_are_limited() -> None:
    (long,) = count_dropped([make_dropped("a very  long\nsentence " * 20)])
    assert len(long.label) == 80
    counted = count_dropped([make_dropped(f"label {i}") for i in range(70)])
    assert len(counted) == 51
    assert counted[0] == make_dropped(OTHER_LABELS, 20)
    assert merge_dropped([make_dropped("a"), make_dropped("b"), make_dropped("b", 3)]) == (
        make_dropped("b", 4),
        make_dropped("a"),
    )
