"""The job store, on SQLite and on PostgreSQL."""

import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Box, Polygon, Text
from server.store import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    Job,
    JobMismatchError,
    JobProgress,
    JobSpec,
    JobState,
    StoreError,
)
from server.store.jobs.job_store import JobStore
from server.store.jobs.leases import MAX_ATTEMPTS, MAX_CRASHES

SPEC = JobSpec("out", '{"steps": ["<OD>"]}', "a" * 64, "images", "f" * 32, "b" * 64)
TRACES = (
    TracedAnnotation(
        Box(label='a "cat"\n日本 \0', score=0.125, box=(0.1, 2.0, 3.3, 1e-7)), "things", "Locate", "cat<loc_1>", "m"
    ),
    TracedAnnotation(Text(label=""), "words", adapter="c" * 64, review="uncertain", parent=0),
    TracedAnnotation(Polygon(polygons=[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]), "shape"),
)


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    with JobStore(url) as opened:
        yield opened


def start_job(store: JobStore, names: int = 5, output: str = "out") -> Job:
    return store.start(store.get_or_create_job(replace(SPEC, output=output), (f"{i}.png" for i in range(names))))


def make_completed(
    position: int, sha256: str | None = None, traces: tuple[TracedAnnotation, ...] = TRACES
) -> CompletedImage:
    return CompletedImage(position, ImageAnnotations(sha256 or f"{position:064}", 40, 30, traces))


def test_images_are_leased_and_completed_in_order(store: JobStore) -> None:
    job = start_job(store)
    leases = store.open_leases(job, "me", 60)
    assert [image.position for image in leases.acquire(3)] == [0, 1, 2]
    assert [(image.position, image.name) for image in leases.acquire(9)] == [(3, "3.png"), (4, "4.png")]
    assert leases.complete([make_completed(4), make_completed(2), make_completed(0)]) == {0, 2, 4}
    assert leases.complete([make_completed(1)]) == {1}
    assert store.get_progress(job) == JobProgress(leased=1, done=4)
    assert store.finish(job).state is JobState.RUNNING
    assert leases.fail([FailedImage(3, "truncated", "cut short", final=True)])
    assert store.finish(job).state is JobState.DONE
    images = list(store.iter_images(job, read=str.encode))
    assert [image.name for image in images] == ["0.png", "1.png", "2.png", "4.png"]
    assert [image.read() for image in store.iter_images(job)] == [b""] * 4
    assert images[0].traces == TRACES
    assert (images[0].sha256, images[0].width, images[0].height) == (f"{0:064}", 40, 30)
    assert [image.name for image in store.iter_images(job, after=1)] == ["2.png", "4.png"]
    assert [(f.name, f.kind, f.reason) for f in store.iter_failures(job)] == [("3.png", "truncated", "cut short")]


def test_a_leased_image_belongs_to_one_worker_until_the_lease_expires(store: JobStore) -> None:
    job = start_job(store)
    mine, yours = store.open_leases(job, "me", 60), store.open_leases(job, "you", 60)
    assert [image.position for image in mine.acquire(2)] == [0, 1]
    assert [image.position for image in yours.acquire(9)] == [2, 3, 4]
    assert yours.acquire_suspect() is None
    assert yours.complete([make_completed(0)]) == set()
    mine.seconds = 0  # they expire at once
    mine.renew()
    assert yours.acquire(9) == []  # an image with which a worker crashed is leased alone
    again = yours.acquire_suspect()
    assert again is not None
    assert again.position == 0
    assert mine.complete([make_completed(0), make_completed(1)]) == {1}
    assert yours.complete([make_completed(0)]) == {0}
    yours.release()
    assert [image.position for image in mine.acquire(9)] == [2, 3, 4]


def test_an_image_with_which_every_worker_crashes_fails(store: JobStore) -> None:
    job = start_job(store, 2)
    assert [image.position for image in store.open_leases(job, "0", 60).acquire(1)] == [0]
    for crash in range(1, MAX_CRASHES):
        store.expire_leases(job)
        leases = store.open_leases(job, str(crash), 60)
        suspect = leases.acquire_suspect()
        assert suspect is not None
        assert suspect.position == 0
    store.expire_leases(job)
    leases = store.open_leases(job, "last", 60)
    assert leases.acquire_suspect() is None
    assert store.get_progress(job).failures_by_kind == {"crash": 1}
    assert [image.position for image in leases.acquire(9)] == [1]
    assert store.retry_failed(job, "crash") == 1
    assert [image.position for image in leases.acquire(9)] == [0]


def test_a_failed_image_is_tried_again_later_and_fails_in_the_end(store: JobStore) -> None:
    job = start_job(store, 2)
    leases = store.open_leases(job, "me", 60)
    for attempt in range(MAX_ATTEMPTS):
        assert store.get_progress(job).waiting == 2
        [image] = leases.acquire(1)
        assert (image.position, image.attempts) == (0, attempt)
        failed = leases.fail([FailedImage(0, "model", "it \0 failed\udcff", attempts=image.attempts)], delay=0.0)
        assert bool(failed) is (attempt == MAX_ATTEMPTS - 1)
    [image] = leases.acquire(9)
    leases.fail([FailedImage(1, "unreachable", "no network", attempts=image.attempts)], delay=60)
    assert leases.acquire(9) == []
    assert store.get_progress(job) == JobProgress(waiting=1, failed=1, failures_by_kind={"model": 1})
    assert [(f.reason, f.attempts) for f in store.iter_failures(job)] == [("it \\x00 failed\\udcff", MAX_ATTEMPTS)]
    assert (store.retry_failed(job, "other"), store.retry_failed(job)) == (0, 1)
    assert store.get_progress(job) == JobProgress(waiting=2)


def test_annotations_of_an_image_are_never_changed(store: JobStore) -> None:
    job, other = start_job(store), start_job(store, output="other")
    leases = store.open_leases(job, "me", 60)
    leases.acquire(5)
    first, later = TRACES[:1], TRACES[1:]
    leases.complete([make_completed(0, "p" * 64, first), make_completed(1, "p" * 64, first)])
    leases.complete([make_completed(2, "p" * 64, later)])
    assert [image.traces for image in store.iter_images(job)] == [first] * 3
    found = store.find_annotations(other, "p" * 64)
    assert found is not None
    assert (found.traces, found.width, found.height) == (first, 40, 30)
    changed = store.get_or_create_job(replace(SPEC, output="third", recipe_hash="c" * 64), [])
    assert store.find_annotations(changed, "p" * 64) is None


def test_an_output_has_one_job_with_one_spec(store: JobStore) -> None:
    job = start_job(store)
    assert store.get_or_create_job(SPEC, ["not listed again"]).id == job.id
    assert store.get_progress(job).total == 5
    changed = replace(SPEC, recipe_hash="c" * 64, fingerprint="g", source="elsewhere", model_hash="d" * 64)
    with pytest.raises(JobMismatchError) as error:
        store.get_or_create_job(changed, [], compare_recipes=lambda old, new: ["score was 0.3, is 0.5"])
    assert error.value.differences[0] == "recipe: score was 0.3, is 0.5"
    assert "images, now elsewhere" in str(error.value)
    assert "bbbbbbbbbbbb, now dddddddddddd" in str(error.value)
    signed = replace(SPEC, fingerprint="g", source="https://me:secret@host/a.zip?signature=secret")
    with pytest.raises(JobMismatchError, match=r"images, now https://host/a\.zip does not contain"):
        store.get_or_create_job(signed, [])
    assert store.get_job(job.id) == job
    assert [each.id for each in store.list_jobs()] == [job.id]
    with pytest.raises(StoreError, match="no job 99"):
        store.get_job(99)


def test_unusual_names_are_stored(store: JobStore) -> None:
    names = ['a "b"\n.png', "日本/猫.jpg", "'; DROP TABLE job_images; --.png", "%s %(x)s.png", "\udcff.png", "🌺" * 300]
    job = store.start(store.get_or_create_job(SPEC, names))
    leased = store.open_leases(job, "me", 60).acquire(9)
    assert [image.name for image in leased] == [*names[:4], "\\udcff.png", names[5]]


def test_pause_resume_and_cancel(store: JobStore) -> None:
    job = start_job(store)
    assert store.pause(job).state is store.pause(job).state is JobState.PAUSED
    assert store.start(job).state is JobState.PAUSED
    assert store.finish(job).state is JobState.PAUSED
    assert store.resume(job).state is JobState.QUEUED
    store.fail(job, "no memory")
    assert (store.get_job(job.id).state, store.get_job(job.id).reason) == (JobState.FAILED, "no memory")
    store.resume(job)
    cancelled = store.cancel(job)
    assert cancelled.state is JobState.CANCELLED
    assert cancelled.ended is not None
    with pytest.raises(StoreError, match="is cancelled; only paused or failed jobs can be resumed"):
        store.resume(job)


def test_concurrent_workers_lease_each_image_once(url: str) -> None:
    with JobStore(url) as first:
        job, leased, lock = start_job(first, 300), [], threading.Lock()

        def work(name: str) -> None:
            with JobStore(url) as own:
                leases = own.open_leases(job, name, 60)
                while images := leases.acquire(7):
                    # Two images that all other workers have too, in both orders.
                    leases.complete([make_completed(image.position, "xy"[image.position % 2] * 64) for image in images])
                    with lock:
                        leased.extend(image.position for image in images)

        threads = [threading.Thread(target=work, args=(f"owner {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(leased) == list(range(300))
        assert first.finish(job).state is JobState.DONE


def test_a_large_job_is_read_in_pages(store: JobStore) -> None:
    job = start_job(store, 2000)
    leases = store.open_leases(job, "me", 60)
    while images := leases.acquire(500):
        leases.complete([make_completed(image.position) for image in images])
    tracemalloc.start()
    try:
        assert sum(1 for _ in store.iter_images(job)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_job_is_found_after_reopening_the_database(url: str) -> None:
    with JobStore(url) as store:
        job = start_job(store)
    with JobStore(url) as store:
        assert store.get_job(job.id) == job


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """SQLite's page limit has the same effect as a full disk."""
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as store:
        job = start_job(store, 50)
        leases = store.open_leases(job, "me", 60)
        leases.acquire(50)
        leases.complete([make_completed(0)])
        sa.event.listen(
            store.database.writer, "checkout", lambda connection, *_: connection.execute("PRAGMA max_page_count = 30")
        )
        large = (replace(TRACES[0], raw="x" * 100_000),)
        with pytest.raises(StoreError, match="is full; all finished work is kept: free some space"):
            leases.complete([make_completed(position, traces=large) for position in range(1, 50)])
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as store:
        kept = list(store.iter_images(job))
        assert [(image.name, image.traces) for image in kept] == [("0.png", TRACES)]
        assert store.get_progress(job) == JobProgress(leased=49, done=1)
