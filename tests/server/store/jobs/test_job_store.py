"""Jobs in a database: on SQLite and on PostgreSQL alike."""

import os
import threading
import time
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
    JobStore,
    StoreError,
    file_url,
)
from server.store.jobs.leases import MAX_ATTEMPTS, MAX_CRASHES

WANTED = JobSpec("out", '{"steps": ["<OD>"]}', "a" * 64, "pictures", "f" * 32, "b" * 64)
LABELS = (
    TracedAnnotation(
        Box(label='a "cat"\n日本 \0', score=0.125, box=(0.1, 2.0, 3.3, 1e-7)), "things", "Locate", "cat<loc_1>", "m"
    ),
    TracedAnnotation(Text(label=""), "words", adapter="c" * 64, review="doubtful", parent=0),
    TracedAnnotation(Polygon(polygons=[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]), "shape"),
)


@pytest.fixture
def store(url: str) -> Iterator[JobStore]:
    with JobStore(url) as opened:
        yield opened


def begun(store: JobStore, names: int = 5, output: str = "out") -> Job:
    return store.start(store.get_or_create_job(replace(WANTED, output=output), (f"{i}.png" for i in range(names))))


def done(position: int, picture: str | None = None, labels: tuple[TracedAnnotation, ...] = LABELS) -> CompletedImage:
    return CompletedImage(position, ImageAnnotations(picture or f"{position:064}", 40, 30, labels))


def test_a_job_is_labelled_in_the_order_of_its_pictures(store: JobStore) -> None:
    job = begun(store)
    leases = store.open_leases(job, "me", 60)
    assert [item.position for item in leases.acquire(3)] == [0, 1, 2]
    assert [(item.position, item.name) for item in leases.acquire(9)] == [(3, "3.png"), (4, "4.png")]
    assert leases.complete([done(4), done(2), done(0)]) == {0, 2, 4}
    assert leases.complete([done(1)]) == {1}
    assert store.get_progress(job) == JobProgress(leased=1, done=4)
    assert store.finish(job).state is JobState.RUNNING
    assert leases.fail([FailedImage(3, "truncated", "cut short", final=True)])
    assert store.finish(job).state is JobState.DONE
    pictures = list(store.iter_images(job, read=lambda position: b"%d" % position))
    assert [picture.name for picture in pictures] == ["0.png", "1.png", "2.png", "4.png"]
    assert [picture.read() for picture in pictures] == [b"0", b"1", b"2", b"4"]
    assert pictures[0].labels == LABELS
    assert (pictures[0].sha256, pictures[0].width, pictures[0].height) == (f"{0:064}", 40, 30)
    assert [picture.name for picture in store.iter_images(job, after=1)] == ["2.png", "4.png"]
    assert [(f.name, f.kind, f.reason) for f in store.iter_failures(job)] == [("3.png", "truncated", "cut short")]


def test_what_is_leased_is_nobody_elses_until_it_runs_out(store: JobStore) -> None:
    job = begun(store)
    mine, yours = store.open_leases(job, "me", 0.3), store.open_leases(job, "you", 60)
    assert [item.position for item in mine.acquire(2)] == [0, 1]
    assert [item.position for item in yours.acquire(9)] == [2, 3, 4]
    assert yours.acquire_suspect() is None
    assert yours.complete([done(0)]) == set()
    mine.renew()
    time.sleep(0.4)
    assert yours.acquire(9) == []  # one with which somebody died is taken alone
    again = yours.acquire_suspect()
    assert again is not None
    assert again.position == 0
    assert mine.complete([done(0), done(1)]) == {1}
    assert yours.complete([done(0)]) == {0}
    yours.release()
    assert [item.position for item in mine.acquire(9)] == [2, 3, 4]


def test_a_picture_with_which_everybody_dies_is_set_aside(store: JobStore) -> None:
    job = begun(store, 2)
    assert [item.position for item in store.open_leases(job, "0", 60).acquire(1)] == [0]
    for death in range(1, MAX_CRASHES):
        store.expire_leases(job)
        leases = store.open_leases(job, str(death), 60)
        taken = leases.acquire_suspect()
        assert taken is not None
        assert taken.position == 0
    store.expire_leases(job)
    leases = store.open_leases(job, "last", 60)
    assert leases.acquire_suspect() is None
    assert store.get_progress(job).failures_by_kind == {"crash": 1}
    assert [item.position for item in leases.acquire(9)] == [1]
    assert store.retry_failed(job, "crash") == 1
    assert [item.position for item in leases.acquire(9)] == [0]


def test_a_failure_is_tried_again_later_and_then_set_aside(store: JobStore) -> None:
    job = begun(store, 2)
    leases = store.open_leases(job, "me", 60)
    for attempt in range(MAX_ATTEMPTS):
        assert store.get_progress(job).waiting == 2
        [item] = leases.acquire(1)
        assert (item.position, item.attempts) == (0, attempt)
        aside = leases.fail([FailedImage(0, "model", "it \0 failed\udcff", attempts=item.attempts)], delay=0.0)
        assert bool(aside) is (attempt == MAX_ATTEMPTS - 1)
    [item] = leases.acquire(9)
    leases.fail([FailedImage(1, "unreachable", "no network", attempts=item.attempts)], delay=60)
    assert leases.acquire(9) == []
    assert store.get_progress(job) == JobProgress(waiting=1, failed=1, failures_by_kind={"model": 1})
    assert [(f.reason, f.attempts) for f in store.iter_failures(job)] == [("it \\x00 failed\\udcff", MAX_ATTEMPTS)]
    assert (store.retry_failed(job, "other"), store.retry_failed(job)) == (0, 1)
    assert store.get_progress(job) == JobProgress(waiting=2)


def test_what_was_said_about_a_picture_is_kept_and_never_changed(store: JobStore) -> None:
    job, other = begun(store), begun(store, output="other")
    leases = store.open_leases(job, "me", 60)
    leases.acquire(5)
    first, later = LABELS[:1], LABELS[1:]
    leases.complete([done(0, "p" * 64, first), done(1, "p" * 64, first)])
    leases.complete([done(2, "p" * 64, later)])
    assert [picture.traces for picture in store.iter_images(job)] == [first] * 3
    found = store.find_annotations(other, "p" * 64)
    assert found is not None
    assert (found.traces, found.width, found.height) == (first, 40, 30)
    changed = store.get_or_create_job(replace(WANTED, output="third", recipe_hash="c" * 64), [])
    assert store.find_annotations(changed, "p" * 64) is None


def test_the_same_output_is_the_same_job_unless_it_is_asked_for_otherwise(store: JobStore) -> None:
    job = begun(store)
    assert store.get_or_create_job(WANTED, ["not listed again"]).id == job.id
    assert store.get_progress(job).total == 5
    changed = replace(WANTED, recipe_hash="c" * 64, fingerprint="g", source="elsewhere", model_hash="d" * 64)
    with pytest.raises(JobMismatchError) as refused:
        store.get_or_create_job(changed, [], difference=lambda old, new: ["score was 0.3, is 0.5"])
    assert refused.value.differences[0] == "recipe: score was 0.3, is 0.5"
    assert "pictures, now elsewhere" in str(refused.value)
    assert "bbbbbbbbbbbb, now dddddddddddd" in str(refused.value)
    signed = replace(WANTED, fingerprint="g", source="https://me:secret@host/a.zip?signature=secret")
    with pytest.raises(JobMismatchError, match=r"pictures, now https://host/a\.zip does not hold"):
        store.get_or_create_job(signed, [])
    assert store.get_job(job.id) == job
    assert [each.id for each in store.list_jobs()] == [job.id]
    with pytest.raises(StoreError, match="no job 99"):
        store.get_job(99)


def test_names_of_every_kind_come_back(store: JobStore) -> None:
    names = ['a "b"\n.png', "日本/猫.jpg", "'; DROP TABLE items; --.png", "%s %(x)s.png", "\udcff.png", "🌺" * 300]
    job = store.start(store.get_or_create_job(WANTED, names))
    taken = store.open_leases(job, "me", 60).acquire(9)
    assert [item.name for item in taken] == [*names[:4], "\\udcff.png", names[5]]


def test_pause_resume_and_cancel(store: JobStore) -> None:
    job = begun(store)
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
    with pytest.raises(StoreError, match="is cancelled; what is paused or failed can be resumed"):
        store.resume(job)


def test_many_owners_at_once_take_each_picture_once(url: str) -> None:
    with JobStore(url) as first:
        job, taken, lock = begun(first, 300), [], threading.Lock()

        def work(name: str) -> None:
            with JobStore(url) as own:
                leases = own.open_leases(job, name, 60)
                while items := leases.acquire(7):
                    # Two pictures that all others have too, in both orders.
                    leases.complete([done(item.position, "xy"[item.position % 2] * 64) for item in items])
                    with lock:
                        taken.extend(item.position for item in items)

        threads = [threading.Thread(target=work, args=(f"owner {i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == list(range(300))
        assert first.finish(job).state is JobState.DONE


def test_a_large_job_is_read_a_page_at_a_time(store: JobStore) -> None:
    job = begun(store, 2000)
    leases = store.open_leases(job, "me", 60)
    while items := leases.acquire(500):
        leases.complete([done(item.position) for item in items])
    tracemalloc.start()
    try:
        assert sum(1 for _ in store.iter_images(job)) == 2000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_opening_again_finds_all(url: str) -> None:
    with JobStore(url) as store:
        job = begun(store)
    with JobStore(url) as store:
        assert store.get_job(job.id) == job


def test_a_database_of_a_newer_florist_is_left_alone(url: str) -> None:
    with JobStore(url):
        pass
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer florist"):
        JobStore(url)


def test_the_tables_are_those_of_the_migrations(url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from server.store.tables import TableBase

    with JobStore(url):
        pass
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), TableBase.metadata) == []
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://host/name", "SQLite or PostgreSQL, not in mysql"),
        ("florist.db", "postgresql://user:password@host/name"),
        ("postgresql://florist:secret@/name?host=/nowhere", "does not answer"),
        ("sqlite:////nowhere/florist.db", "cannot be written"),
    ],
)
def test_a_database_that_cannot_be_used_says_so(url: str, said: str) -> None:
    with pytest.raises(StoreError, match=said) as refused:
        JobStore(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["a?b", "a%20b", "100%", "a#b", "ä b"])
def test_a_file_lies_where_its_path_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    file = tmp_path / name / "florist.db"
    for read_only in (False, True):
        with JobStore(file_url(file), read_only=read_only) as store:
            assert store.list_jobs() == []
    assert file.stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "florist.db").write_bytes(b"something else" * 100)
    with pytest.raises(StoreError, match="no database of florist's"):
        JobStore(f"sqlite:///{tmp_path / 'florist.db'}")
    assert (tmp_path / "florist.db").read_bytes() == b"something else" * 100


def test_a_folder_that_is_read_only_is_refused(tmp_path: Path) -> None:
    """In a child, for root may write anywhere."""
    read, write = os.pipe()
    tmp_path.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents[:3]]:
        if parent.owner() == Path.home().owner() and "pytest" in parent.name:
            parent.chmod(parent.stat().st_mode | 0o055)
    if (child := os.fork()) == 0:
        said = "it was opened"
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            JobStore(f"sqlite:///{tmp_path / 'florist.db'}")
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 10_000).decode()
    assert "StoreError" in told
    assert "cannot be written" in told
    assert "rights" in told


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own limit of pages answers as a disk does."""
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as store:
        job = begun(store, 50)
        leases = store.open_leases(job, "me", 60)
        leases.acquire(50)
        leases.complete([done(0)])
        sa.event.listen(
            store.database.engine, "checkout", lambda connection, *_: connection.execute("PRAGMA max_page_count = 30")
        )
        large = (replace(LABELS[0], raw="x" * 100_000),)
        with pytest.raises(StoreError, match="is full; what was labelled is kept: make room"):
            leases.complete([done(position, labels=large) for position in range(1, 50)])
    with JobStore(f"sqlite:///{tmp_path / 'florist.db'}") as store:
        kept = list(store.iter_images(job))
        assert [(picture.name, picture.traces) for picture in kept] == [("0.png", LABELS)]
        assert store.get_progress(job) == JobProgress(leased=49, done=1)


def test_what_is_read_beside_its_writer_changes_nothing(store: JobStore, url: str) -> None:
    job = begun(store)
    with JobStore(url, read_only=True) as beside:
        assert beside.list_jobs() == [job]
        paused = store.pause(job)
        assert beside.list_jobs() == [paused]
        with pytest.raises(StoreError):
            beside.resume(job)
        assert store.list_jobs() == [paused]
        with store.database.begin_write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(StoreError, match="written by another version of florist"):
        JobStore(url, read_only=True)


def test_what_is_only_read_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"florist\.db cannot be read"):
        JobStore(f"sqlite:///{tmp_path / 'florist.db'}", read_only=True)
    assert not list(tmp_path.iterdir())
