"""Several workers behind one queue: who looks at a picture, on which cores, with which adapters."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prompts.tasks import TASKS
from server.engine import checkpoint as checkpoints
from server.engine.checkpoint import Checkpoint, CheckpointError
from server.engine.engine import Engine
from server.engine.model import Florence2
from server.engine.runner import Runner
from server.engine.worker import shares_of_cores
from tests.server.engine import reference
from tests.server.engine.test_adapters import TEXT, save
from tests.server.engine.tiny import picture

WAIT = 60.0
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers on a CPU need two cores")


def test_two_workers_say_what_transformers_says(tiny: Checkpoint) -> None:
    with Engine(tiny, replicas=[tiny], max_batch=3, max_waiting=64) as engine:
        asked = [
            reference.request(token, picture(i % 4), beams=1 + 2 * (i % 2), limit=6 + i)
            for i, token in enumerate([*TASKS, *TASKS])
        ]
        handles = [engine.submit(request) for request in asked]
        for request, handle in zip(asked, handles, strict=True):
            assert handle.wait(WAIT).tokens == reference.generate(tiny, request)
        assert all(worker.loop.rows > 0 for worker in engine._workers)
        stats = engine.stats()
        assert (stats.finished, stats.running, stats.waiting) == (len(asked), 0, 0)


def test_a_picture_is_looked_at_once_whoever_answers(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    look, looking, meanwhile = Florence2.look, threading.Event(), threading.Event()

    def slow(*call: object) -> torch.Tensor:
        looking.set()
        assert meanwhile.wait(WAIT)
        return look(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(Florence2, "look", slow)
    with Engine(tiny, replicas=[tiny], max_batch=1, max_waiting=16) as engine:
        handles = [engine.submit(reference.request("<OD>", picture(), beams=1, limit=4 + i)) for i in range(4)]
        assert looking.wait(WAIT)
        assert not meanwhile.wait(0.05)  # time enough for the other worker to look too
        meanwhile.set()
        assert all(handle.wait(WAIT).tokens for handle in handles)
        stats = engine.stats()
        assert (stats.pictures, stats.cache.hits, stats.cache.misses) == (1, 3, 1)


def test_a_look_that_fails_is_open_to_others(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    look, fails = Florence2.look, [True]

    def failing(*call: object) -> torch.Tensor:
        if fails:
            fails.clear()
            raise RuntimeError("once")
        return look(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(Florence2, "look", failing)
    with Engine(tiny, replicas=[tiny], max_batch=1, max_waiting=16) as engine:
        first = engine.submit(reference.request("<OD>", picture(), beams=1, limit=4))
        with pytest.raises(RuntimeError, match="once"):
            first.wait(WAIT)
        assert engine.submit(reference.request("<OD>", picture(), beams=1, limit=4)).wait(WAIT).tokens


def test_each_worker_on_a_cpu_has_cores_of_its_own(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    own, step, here = dict[str, tuple[set[int], int]](), Runner.step, os.sched_getaffinity(0)
    both = threading.Barrier(2)

    def noting(runner: Runner) -> None:
        if (name := str(threading.get_ident())) not in own:
            own[name] = os.sched_getaffinity(0), torch.get_num_threads()
            both.wait(WAIT)
        step(runner)

    monkeypatch.setattr(Runner, "step", noting)
    with Engine(tiny, replicas=[tiny], max_batch=1, max_waiting=16) as engine:
        handles = [engine.submit(reference.request("<OD>", picture(i), beams=1, limit=9)) for i in range(2)]
        assert all(handle.wait(WAIT).tokens for handle in handles)
    (first, one), (second, two) = own.values()
    assert not first & second
    assert first | second == here == os.sched_getaffinity(0)
    assert (one, two) == (len(first), len(second))


def test_what_workers_take_of_the_cores_nobody_else_loses(tiny: Checkpoint) -> None:
    """A fine-tune in a process that had an engine ran on one core."""
    before, later = torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    try:
        with Engine(tiny, replicas=[tiny], max_batch=1, max_waiting=16) as engine:
            assert engine.submit(reference.request("<OD>", picture(), beams=1, limit=9)).wait(WAIT).tokens
            assert torch.get_num_threads() == 3
            thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
            thread.start()
            thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto takes the GPU")
def test_a_small_model_gets_a_worker_a_core_and_a_large_one_all_cores(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = os.sched_getaffinity(0)
    for device, count in (("auto", min(4, len(cores))), ("cpu", 1)):
        with Engine.load(str(tiny_folder), device=device) as engine:
            assert len(engine._workers) == count
            assert engine.submit(reference.request("<OD>", picture(), beams=1, limit=9)).wait(WAIT).tokens
    monkeypatch.setattr("server.engine.worker.SMALL", 1000)
    with Engine.load(str(tiny_folder)) as engine:
        assert len(engine._workers) == 1
    monkeypatch.undo()
    os.sched_setaffinity(0, {min(cores)})
    try:
        with Engine.load(str(tiny_folder)) as engine:
            assert len(engine._workers) == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_adapters_are_on_every_device(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    """A second checkpoint of the same files stands for one on another device: weights and layers of its own."""
    folder = save(tmp_path / "a", target_modules=TEXT)
    with Engine(tiny, replicas=[checkpoints.load(str(tiny_folder))], max_batch=1, max_waiting=64) as engine:
        engine.load_adapter("a", folder)
        asked = [reference.request("<OD>", picture(i), beams=1, limit=8) for i in range(12)]

        handles = [engine.submit(replace(request, adapter="a")) for request in asked]
        for request, handle in zip(asked, handles, strict=True):
            assert handle.wait(WAIT).tokens == reference.generate(tiny, request, adapter=folder)
        assert all(worker.loop.rows > 0 for worker in engine._workers)
        engine.unload_adapter("a")
        # The last answer is there a moment before its adapter is let go.
        models, end = [worker.runner.model for worker in engine._workers], time.monotonic() + WAIT
        while any(linear.adapters for model in models for linear, _ in model.adaptable().values()):
            assert time.monotonic() < end
            time.sleep(0.01)


def test_devices_by_name(tiny_folder: Path) -> None:
    with Engine.load(str(tiny_folder), device="cpu, cpu") as engine:
        first, second = (worker.runner for worker in engine._workers)
        assert first.model is second.model
        assert engine.submit(reference.request("<OD>", picture(), beams=1, limit=4)).wait(WAIT).tokens
    for wrong in ("cpu,abacus", "cpu,", ",".join(["cpu"] * 1000)):
        with pytest.raises(CheckpointError, match=r"cannot be used|cores"):
            Engine.load(str(tiny_folder), device=wrong)


def test_shares_of_cores() -> None:
    here = sorted(os.sched_getaffinity(0))
    assert shares_of_cores(1) == [here]
    parts = shares_of_cores(2)
    assert [core for part in parts for core in part] == here
    assert abs(len(parts[0]) - len(parts[1])) <= 1
