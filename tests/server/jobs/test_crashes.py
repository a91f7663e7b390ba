"""A job that is killed at any moment and started again has the same results as an undisturbed one, byte for byte."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seedling.scenes.drawing import draw_scene
from server.store import JobProgress, JobState
from server.store.jobs.job_store import JobStore
from server.store.jobs.leases import TRACES
from tests.server.databases import Postgres
from tests.server.helpers import ROOT, wait_until

SCENES, KILLS = 28, 50


class LabelingProcess:
    """The process of labeling_process.py."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLORIST_")} | {"OMP_NUM_THREADS": "1"}
        with log.open("wb") as errors:
            self.running = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("labeling_process.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True,
                env=environment | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def start(self, url: str, images: Path, *, exclusive: bool = True, lease_seconds: float = 60.0) -> int:
        """Starts a child process that works on the job, and returns its process ID."""
        return self._send({"url": url, "address": str(images), "exclusive": exclusive, "lease_seconds": lease_seconds})

    def wait(self, child: int) -> int:
        """Waits for a child, and returns its exit code; a negative one is the signal that killed it."""
        return self._send(child)

    def close(self) -> None:
        self.running.kill()
        self.running.wait()

    def _send(self, order: Any) -> int:
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write(json.dumps(order) + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        assert line, self.log.read_text()
        return int(line)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelingProcess]:
    started = LabelingProcess(tmp_path_factory.mktemp("process") / "log")
    yield started
    started.close()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, one of them twice, and two files that are not images."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(SCENES):
        draw_scene(3000 + seed).image.save(folder / f"{seed:02}.png")
    (folder / "07 again.png").write_bytes((folder / "07.png").read_bytes())
    (folder / "12 broken.png").write_bytes((folder / "12.png").read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    process: LabelingProcess, images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, float]:
    """The results of an undisturbed run, and its duration in seconds."""
    url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'florist.db'}"
    start = time.monotonic()
    assert process.wait(process.start(url, images)) == 0, process.log.read_text()
    return dump(url), time.monotonic() - start


def dump(url: str) -> bytes:
    """Returns all results of a job as bytes that are equal if the results are equal."""
    with JobStore(url) as store:
        [job] = store.list_jobs()
        assert job.state is JobState.DONE
        assert store.get_progress(job) == JobProgress(
            done=SCENES + 1, failed=2, failures_by_kind={"empty": 1, "truncated": 1}
        )
        lines: list[Any] = [
            [p.name, p.sha256, p.width, p.height, TRACES.dump_python(p.traces, mode="json")]
            for p in store.iter_images(job)
        ]
        lines += [[f.name, f.kind, f.reason, f.attempts] for f in store.iter_failures(job)]
    return "\n".join(map(json.dumps, lines)).encode()


def count_ended_images(url: str) -> int:
    """Returns how many images of the job are done or have failed; 0 before it is stored."""
    with JobStore(url) as store:
        progress = [store.get_progress(job) for job in store.list_jobs()]
    return sum(each.done + each.failed for each in progress)


def kill_repeatedly(process: LabelingProcess, url: str, images: Path, times: int, seconds: float, seed: int) -> None:
    """Kills children at random moments within `seconds` from their start, then lets one finish."""
    moments = random.Random(seed)
    for _ in range(times):
        child = process.start(url, images)
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        process.wait(child)
    assert process.wait(process.start(url, images)) == 0, process.log.read_text()


def test_the_results_of_an_undisturbed_run(undisturbed: tuple[bytes, float]) -> None:
    lines = [json.loads(line) for line in undisturbed[0].splitlines()]
    assert [line[0] for line in lines[:3]] == ["00.png", "01.png", "02.png"]
    traces = [trace for line in lines[: SCENES + 1] for trace in line[4]]
    assert {trace["step"] for trace in traces} == {"things", "names"}
    assert all(len(trace["model"]) == 64 and trace["prompt"] and trace["raw"] for trace in traces)
    again, first = (next(line for line in lines if line[0] == name) for name in ("07 again.png", "07.png"))
    assert again[1:] == first[1:]


def test_a_job_that_is_killed_and_started_again(
    process: LabelingProcess, images: Path, undisturbed: tuple[bytes, float], tmp_path: Path
) -> None:
    """The slow test below kills it fifty times, on both databases."""
    expected, seconds = undisturbed
    url = f"sqlite:///{tmp_path / 'florist.db'}"
    kill_repeatedly(process, url, images, 5, 0.2 * seconds, seed=5)
    assert dump(url) == expected


def test_an_extension_that_is_killed_and_started_again(
    process: LabelingProcess, images: Path, undisturbed: tuple[bytes, float], new_database: Callable[[], str],
    tmp_path: Path,
) -> None:  # fmt: skip
    """A finished job gets new images, one is changed, and one removed. No old label is lost, and no image is twice."""
    expected, seconds = undisturbed
    url, source = new_database(), tmp_path / "source"
    source.mkdir()
    names = sorted(path.name for path in images.iterdir())
    for name in names[::2]:
        (source / name).write_bytes((images / name).read_bytes())
    (source / names[0]).write_bytes((images / names[1]).read_bytes())
    (source / "gone.png").write_bytes((images / names[3]).read_bytes())
    assert process.wait(process.start(url, source)) == 0, process.log.read_text()
    with JobStore(url) as store:
        [job] = store.list_jobs()
        before = {image.name: image.traces for image in store.iter_images(job)}
    for name in names:
        if name not in names[2::2]:
            (source / name).write_bytes((images / name).read_bytes())
    (source / "gone.png").unlink()
    kill_repeatedly(process, url, source, 4, 0.2 * seconds, seed=6)
    with JobStore(url) as store:
        [job] = store.list_jobs()
        progress = store.get_progress(job)
        assert (job.state, progress.done, progress.failed, progress.removed) == (JobState.DONE, SCENES + 1, 2, 1)
        labeled = {
            image.name: [image.name, image.sha256, *image.size, TRACES.dump_python(image.traces, mode="json")]
            for image in store.iter_images(job)
        }
        assert len(labeled) == SCENES + 1
        with store.database.begin_read() as connection:
            positions = connection.exec_driver_sql("SELECT count(*), count(DISTINCT name) FROM job_images").one()
            assert tuple(positions) == (SCENES + 4, SCENES + 4)
    whole = {line[0]: line for line in map(json.loads, expected.splitlines()) if len(line) == 5}
    assert labeled == whole
    assert all(
        TRACES.dump_python(before[name], mode="json") == whole[name][4] for name in names[2::2] if name in before
    )


@pytest.mark.slow
def test_a_job_that_is_killed_fifty_times(
    process: LabelingProcess, images: Path, undisturbed: tuple[bytes, float], new_database: Callable[[], str]
) -> None:
    """Counts only kills during the work: a job that ends earlier is compared, and another one starts.

    Kills come after some images and a part of the next one, not after a time: on a busy machine no image would be
    done in that time, and an image with which six processes in a row were killed counts as their cause.
    """
    (expected, seconds), moments = undisturbed, random.Random(50)
    url, kills = new_database(), 0
    while kills < KILLS:
        ended, child = count_ended_images(url), process.start(url, images)
        goal = ended + moments.choice((0, 1, 1, 2, 3))
        wait_until(lambda url=url, goal=goal: count_ended_images(url) >= min(goal, SCENES + 3))
        time.sleep(moments.uniform(0, seconds / SCENES))
        os.kill(child, signal.SIGKILL)
        if (code := process.wait(child)) == 0:
            assert dump(url) == expected
            url = new_database()
        else:
            assert code == -signal.SIGKILL, process.log.read_text()
            kills += 1
    assert process.wait(process.start(url, images)) == 0, process.log.read_text()
    assert dump(url) == expected


def test_one_of_two_workers_is_killed(
    process: LabelingProcess, images: Path, undisturbed: tuple[bytes, float], postgres: Postgres
) -> None:
    expected, _ = undisturbed
    url = postgres.create_database()
    victim, other = (process.start(url, images, exclusive=False, lease_seconds=3.0) for _ in range(2))
    with JobStore(url) as store:
        wait_until(lambda: store.list_jobs() and store.get_progress(store.list_jobs()[0]).done > 5)
    os.kill(victim, signal.SIGKILL)
    assert process.wait(victim) == -signal.SIGKILL
    assert process.wait(other) == 0, process.log.read_text()
    assert dump(url) == expected


@pytest.mark.slow
def test_the_database_is_killed(process: LabelingProcess, images: Path, undisturbed: tuple[bytes, float]) -> None:
    expected, seconds = undisturbed
    own = Postgres()
    try:
        url = own.create_database()
        child = process.start(url, images)
        with JobStore(url) as store:
            wait_until(lambda: store.list_jobs() and store.get_progress(store.list_jobs()[0]).done > 5)
        own.stop()
        time.sleep(seconds / 5)
        own.start()
        assert process.wait(child) == 0, process.log.read_text()
        assert dump(url) == expected
    finally:
        own.close()
    assert "waiting for it" in process.log.read_text()
