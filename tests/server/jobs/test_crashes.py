"""Killed at any moment, a job that is begun again leaves what an undisturbed one does, byte for byte."""

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
from server.store import JobProgress, JobState, JobStore
from server.store.jobs.leases import LABELS
from tests.server.databases import Postgres
from tests.server.helpers import ROOT, wait_until

SCENES = 28


class Labelling:
    """The process of labelling.py."""

    def __init__(self, log: Path) -> None:
        self.log = log
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLORIST_")} | {"OMP_NUM_THREADS": "1"}
        with log.open("wb") as errors:
            self.running = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("labelling.py"))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, text=True,
                env=environment | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def begin(self, url: str, pictures: Path, *, sole: bool = True, lease: float = 60.0) -> int:
        """A child at work; its process id."""
        return self._answer({"url": url, "pictures": str(pictures), "sole": sole, "lease": lease})

    def ended(self, child: int) -> int:
        """Waits for a child: its exit code, or less than 0 for the signal that killed it."""
        return self._answer(child)

    def close(self) -> None:
        self.running.kill()
        self.running.wait()

    def _answer(self, order: Any) -> int:
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write(json.dumps(order) + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        assert line, self.log.read_text()
        return int(line)


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labelling]:
    process = Labelling(tmp_path_factory.mktemp("labelling") / "log")
    yield process
    process.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, one of them twice, and two files that are no pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(SCENES):
        draw_scene(3000 + seed).image.save(folder / f"{seed:02}.png")
    (folder / "07 again.png").write_bytes((folder / "07.png").read_bytes())
    (folder / "12 broken.png").write_bytes((folder / "12.png").read_bytes()[:2000])
    (folder / "empty.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def undisturbed(labelling: Labelling, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """What is left by a run that nobody disturbs, and the seconds that it takes."""
    url = f"sqlite:///{tmp_path_factory.mktemp('undisturbed') / 'florist.db'}"
    began = time.monotonic()
    assert labelling.ended(labelling.begin(url, pictures)) == 0, labelling.log.read_text()
    return dump(url), time.monotonic() - began


def dump(url: str) -> bytes:
    """All that a job leaves, in a form that is the same where the content is."""
    with JobStore(url) as store:
        [job] = store.list_jobs()
        assert job.state is JobState.DONE
        assert store.get_progress(job) == JobProgress(done=SCENES + 1, failed=2, kinds={"empty": 1, "truncated": 1})
        lines: list[Any] = [
            [p.name, p.sha256, p.width, p.height, LABELS.dump_python(p.traces, mode="json")]
            for p in store.iter_images(job)
        ]
        lines += [[f.name, f.kind, f.reason, f.tries] for f in store.iter_failures(job)]
    return "\n".join(map(json.dumps, lines)).encode()


def killed(labelling: Labelling, url: str, pictures: Path, times: int, seconds: float, seed: int) -> None:
    """Kills so many children at seeded moments within `seconds` from their start, then lets one end."""
    moments = random.Random(seed)
    for _ in range(times):
        child = labelling.begin(url, pictures)
        time.sleep(moments.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        labelling.ended(child)
    assert labelling.ended(labelling.begin(url, pictures)) == 0, labelling.log.read_text()


def test_what_an_undisturbed_run_leaves(undisturbed: tuple[bytes, float]) -> None:
    lines = [json.loads(line) for line in undisturbed[0].splitlines()]
    assert [line[0] for line in lines[:3]] == ["00.png", "01.png", "02.png"]
    labels = [label for line in lines[: SCENES + 1] for label in line[4]]
    assert {label["step"] for label in labels} == {"things", "names"}
    assert all(len(label["model"]) == 64 and label["prompt"] and label["raw"] for label in labels)
    again, first = (next(line for line in lines if line[0] == name) for name in ("07 again.png", "07.png"))
    assert again[1:] == first[1:]


def test_killed_and_begun_again(
    labelling: Labelling, pictures: Path, undisturbed: tuple[bytes, float], tmp_path: Path
) -> None:
    """Fifty kills, on both databases, are a slow test."""
    expected, seconds = undisturbed
    url = f"sqlite:///{tmp_path / 'florist.db'}"
    killed(labelling, url, pictures, 5, 0.2 * seconds, seed=5)
    assert dump(url) == expected


@pytest.mark.slow
def test_killed_fifty_times(
    labelling: Labelling, pictures: Path, undisturbed: tuple[bytes, float], new_database: Callable[[], str]
) -> None:
    """At work each time: what is done before its time is looked at, and another is begun."""
    (expected, seconds), moments = undisturbed, random.Random(50)
    url, died = new_database(), 0
    while died < 50:
        child = labelling.begin(url, pictures)
        time.sleep(moments.uniform(0, 0.2 * seconds))
        os.kill(child, signal.SIGKILL)
        if (code := labelling.ended(child)) == 0:
            assert dump(url) == expected
            url = new_database()
        else:
            assert code == -signal.SIGKILL, labelling.log.read_text()
            died += 1
    assert labelling.ended(labelling.begin(url, pictures)) == 0, labelling.log.read_text()
    assert dump(url) == expected


def test_two_owners_one_killed_midway(
    labelling: Labelling, pictures: Path, undisturbed: tuple[bytes, float], postgres: Postgres
) -> None:
    expected, _ = undisturbed
    url = postgres.database()
    victim, other = (labelling.begin(url, pictures, sole=False, lease=3.0) for _ in range(2))
    with JobStore(url) as store:
        wait_until(lambda: store.list_jobs() and store.get_progress(store.list_jobs()[0]).done > 5)
    os.kill(victim, signal.SIGKILL)
    assert labelling.ended(victim) == -signal.SIGKILL
    assert labelling.ended(other) == 0, labelling.log.read_text()
    assert dump(url) == expected


def test_the_database_is_killed_midway(labelling: Labelling, pictures: Path, undisturbed: tuple[bytes, float]) -> None:
    expected, seconds = undisturbed
    own = Postgres()
    try:
        url = own.database()
        child = labelling.begin(url, pictures)
        with JobStore(url) as store:
            wait_until(lambda: store.list_jobs() and store.get_progress(store.list_jobs()[0]).done > 5)
        own.stop()
        time.sleep(seconds / 5)
        own.start()
        assert labelling.ended(child) == 0, labelling.log.read_text()
        assert dump(url) == expected
    finally:
        own.close()
    assert "waiting for it" in labelling.log.read_text()
