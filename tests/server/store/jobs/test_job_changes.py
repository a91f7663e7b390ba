"""Jobs whose source, recipe or model changes, on SQLite and on PostgreSQL."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from labels.labeled_image import TracedAnnotation
from prompts.annotations import Box
from server.store import (
    CompletedImage,
    FailedImage,
    ImageAnnotations,
    InvalidStateError,
    Job,
    JobChangedError,
    JobMismatchError,
    JobProgress,
    JobSpec,
    JobState,
)
from server.store.jobs.job_changes import ImageChanges
from server.store.jobs.job_store import JobStore

SPEC = JobSpec("out", '{"steps": ["<OD>"]}', "a" * 64, "images", "", "b" * 64)


@dataclass
class Listing:
    """A source with stamps, by name."""

    stamps: dict[str, str]
    names: Sequence[str] = field(init=False)
    positions: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.names = tuple(self.stamps)
        self.positions = {name: i for i, name in enumerate(self.names)}

    @property
    def spec(self) -> JobSpec:
        return replace(SPEC, fingerprint=f"{self.names}")

    def get_stamp(self, position: int) -> str:
        return self.stamps[self.names[position]]


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    with JobStore(url) as opened:
        yield opened


def label(store: JobStore, job: Job, listing: Listing, hashes: dict[str, str] | None = None) -> list[str]:
    """Labels everything that waits, and returns the names of changed images. `hashes`: of files with other content."""
    job = store.start(job)
    leases, changed = store.open_leases(job, "me", 60), list[str]()
    while images := leases.acquire(7):
        done = []
        for image in images:
            sha256 = (hashes or {}).get(image.name, image.name).ljust(64, "_")
            traces = (TracedAnnotation(Box(label=f"{sha256[:8]} by {job.spec.recipe_hash[0]}", box=(0, 0, 1, 1)), "s"),)
            stored = store.find_annotations(job, sha256) or ImageAnnotations(sha256, 4, 3, traces)
            stamp = listing.stamps[image.name]
            is_changed = image.sha256 not in (None, sha256)
            done.append(CompletedImage(image.position, stored, image.name, is_changed, stamp))
            changed += [image.name] * is_changed
        leases.complete(done)
    assert store.finish(job).state is JobState.DONE
    return changed


def start(store: JobStore, listing: Listing) -> Job:
    return store.get_or_create_job(listing.spec, listing.names)


def list_labels(store: JobStore, job: Job) -> dict[str, str]:
    return {image.name: image.traces[0].annotation.label for image in store.iter_images(job)}


def test_new_images_are_added_at_the_end_and_old_ones_kept(store: JobStore) -> None:
    first = Listing({"b.png": "1", "d.png": "1"})
    label(store, job := start(store, first), first)
    second = Listing({"a.png": "1", "b.png": "1", "c.png": "1", "d.png": "1"})
    extended, changes = store.update_job(job, second.spec, second)
    assert (changes.added, changes.kept, changes.compared, changes.removed) == (2, 2, 0, 0)
    assert changes.names["added"] == ("a.png", "c.png")
    assert extended.state is JobState.QUEUED
    assert extended.ended is None
    assert list(list_labels(store, job)) == ["b.png", "d.png"]  # while the job goes on
    label(store, extended, second)
    assert list(list_labels(store, job)) == ["b.png", "d.png", "a.png", "c.png"]
    assert [store.get_image_name(job, position) for position in range(5)] == ["b.png", "d.png", "a.png", "c.png", None]
    assert store.update_job(store.get_job(job.id), second.spec, second)[1] == replace(
        ImageChanges(kept=4), names={"added": (), "compared": (), "removed": ()}
    )
    assert store.get_job(job.id).state is JobState.DONE


def test_a_removed_image_leaves_the_results_and_comes_back_with_its_labels(store: JobStore) -> None:
    both = Listing({"a.png": "1", "b.png": "1"})
    label(store, job := start(store, both), both)
    labels = list_labels(store, job)
    one = Listing({"b.png": "1"})
    _, changes = store.update_job(job, one.spec, one)
    assert (changes.removed, changes.kept, changes.names["removed"]) == (1, 1, ("a.png",))
    assert store.get_progress(job) == JobProgress(done=1, removed=1)
    assert store.get_job(job.id).state is JobState.DONE
    assert list(list_labels(store, job)) == ["b.png"]
    back, changes = store.update_job(job, both.spec, both)
    assert (changes.added, changes.kept) == (1, 1)
    label(store, back, both)
    assert list_labels(store, job) == labels
    assert store.get_progress(job) == JobProgress(done=2)


def test_files_that_may_have_changed_are_compared(store: JobStore) -> None:
    first = Listing({"a.png": "1", "b.png": "1", "c.png": "1"})
    label(store, job := start(store, first), first)
    labels = list_labels(store, job)
    touched = Listing({"a.png": "2", "b.png": "2", "c.png": "1"})
    again, changes = store.update_job(job, touched.spec, touched)
    assert (changes.kept, changes.compared, changes.names["compared"]) == (1, 2, ("a.png", "b.png"))
    assert label(store, again, touched, {"b.png": "other"}) == ["b.png"]
    assert list_labels(store, job) == labels | {"b.png": "other___ by a"}


def test_images_without_a_stamp_are_compared_when_the_list_changes(store: JobStore) -> None:
    first = Listing({"a.png": "", "b.png": ""})
    label(store, job := start(store, first), first)
    _, changes = store.update_job(job, first.spec, first)
    assert (changes.kept, changes.unchecked, changes.compared) == (2, 2, 0)
    second = Listing({"a.png": "", "b.png": "", "c.png": ""})
    _, changes = store.update_job(job, second.spec, second)
    assert (changes.kept, changes.compared, changes.added) == (0, 2, 1)


def test_a_failed_image_is_tried_again_once_its_file_has_changed(store: JobStore) -> None:
    first = Listing({"a.png": "1", "b.png": ""})
    job = store.start(start(store, first))
    leases = store.open_leases(job, "me", 60)
    leases.acquire(2)
    leases.fail([FailedImage(0, "broken", "", True, stamp="1"), FailedImage(1, "missing", "", True)])
    store.finish(job)
    assert store.update_job(job, first.spec, first)[1].compared == 0
    fixed = Listing({"a.png": "2", "b.png": "1"})
    assert store.update_job(job, fixed.spec, fixed)[1].names["compared"] == ("a.png", "b.png")
    assert store.get_progress(job) == JobProgress(waiting=2)


def test_another_recipe_labels_all_images_again_and_keeps_the_old_labels(store: JobStore) -> None:
    images = Listing({"a.png": "1", "b.png": "1"})
    label(store, job := start(store, images), images)
    labels = list_labels(store, job)
    other = replace(images.spec, recipe='{"steps": []}', recipe_hash="c" * 64)
    assert store.count_labeled(job, other.recipe_hash, other.model_hash) == 0
    changed, changes = store.update_job(job, other, images, relabel=True)
    assert (changes.relabeled, changes.kept) == (2, 0)
    assert list_labels(store, changed) == {}  # never labels of two recipes in one dataset
    leases = store.open_leases(store.start(changed), "one", 60)
    [image] = leases.acquire(1)
    traces = (TracedAnnotation(Box(label="new", box=(0, 0, 1, 1)), "s"),)
    leases.complete([CompletedImage(image.position, ImageAnnotations(image.name.ljust(64, "_"), 4, 3, traces))])
    assert store.count_labeled(changed, SPEC.recipe_hash, SPEC.model_hash) == 2
    back, changes = store.update_job(changed, images.spec, images, relabel=True)  # in the middle
    assert changes.relabeled == 2
    label(store, back, images)
    assert list_labels(store, job) == labels
    forward, _ = store.update_job(back, other, images)
    label(store, forward, images)
    assert list_labels(store, job) == {"a.png": "new", "b.png": "b.png___ by c"}


def test_a_worker_with_an_earlier_state_of_the_job_gets_no_more_images(store: JobStore) -> None:
    images = Listing({f"{n}.png": "1" for n in range(4)})
    job = store.start(start(store, images))
    stale = store.open_leases(job, "stale", 60)
    first, second = stale.acquire(2)
    more = Listing({"0.png": "1", "1.png": "1", "3.png": "1", "new.png": "1"})
    _, changes = store.update_job(job, more.spec, more)
    assert (changes.added, changes.removed) == (1, 1)
    with pytest.raises(JobChangedError, match="another process has changed job 1"):
        stale.acquire(1)
    traces = (TracedAnnotation(Box(label="kept", box=(0, 0, 1, 1)), "s"),)
    result = ImageAnnotations("0.png".ljust(64, "_"), 4, 3, traces)
    assert stale.complete([CompletedImage(first.position, result)]) == {0}  # it had the lease before, and still has
    store.update_job(job, replace(more.spec, model_hash="d" * 64), more)
    assert stale.complete([CompletedImage(second.position, result)]) == set()
    assert store.get_progress(job) == JobProgress(waiting=4, removed=1)


def test_extensions_at_the_same_time_add_each_image_once(url: str) -> None:
    first = Listing({f"{n:03}.png": "1" for n in range(50)})
    second = Listing({f"{n:03}.png": "1" for n in range(120)})
    with JobStore(url) as store:
        job = start(store, first)
        leased, lock, failures = list[str](), threading.Lock(), list[Exception]()

        def work(number: int) -> None:
            try:
                with JobStore(url) as own:
                    while True:
                        mine, _ = own.update_job(own.get_job(job.id), second.spec, second)
                        leases = own.open_leases(mine, f"owner {number}", 60)
                        try:
                            while images := leases.acquire(5):
                                with lock:
                                    leased.extend(image.name for image in images)
                            return
                        except JobChangedError:
                            continue
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(leased) == sorted(second.names)
        assert store.get_progress(job) == JobProgress(leased=120)


def test_a_source_elsewhere_must_have_all_images(store: JobStore) -> None:
    both = Listing({"a.png": "1", "b.png": "1"})
    job = start(store, both)
    one = Listing({"b.png": "1", "c.png": "1"})
    with pytest.raises(JobMismatchError, match=r"is there, which does not have 1 of the job's images: a\.png"):
        store.update_job(job, replace(one.spec, source="there"), one, may_remove=False)
    assert store.get_job(job.id) == job
    assert store.get_progress(job) == JobProgress(waiting=2)
    more = Listing({"a.png": "1", "b.png": "1", "c.png": "1"})
    moved, _ = store.update_job(job, replace(more.spec, source="there"), more, may_remove=False)
    assert moved.spec.source == "there"
    store.cancel(moved)
    with pytest.raises(InvalidStateError, match="is cancelled; start another one"):
        store.update_job(moved, both.spec, both)


def test_the_rate_is_that_of_the_time_at_work(store: JobStore) -> None:
    images = Listing({f"{n:02}.png": "1" for n in range(40)})
    job = start(store, images)
    assert store.estimate_rate(job) is None
    label(store, job, images)
    with store.database.begin_write() as connection:  # two images a second, with a night in between
        connection.exec_driver_sql("UPDATE annotations SET created = 1000 + 0.5 * id + 40000 * (id / 21)")
    assert store.estimate_rate(job) == pytest.approx(2.0)


def test_jobs_with_uploads_of_another_server_are_left_to_it(store: JobStore) -> None:
    for source in ("upload:a", "upload:b", "/images"):
        store.get_or_create_job(replace(SPEC, output=source, source=source), ["a.png"])
    assert list(store.list_jobs_by_source("upload:")) == ["upload:a", "upload:b"]
    found = [store.find_runnable(SPEC.options), store.find_runnable(SPEC.options, "upload:", ["upload:b"])]
    found.append(store.find_runnable(SPEC.options, "upload:"))
    assert [job and job.spec.source for job in found] == ["upload:a", "upload:b", "/images"]
