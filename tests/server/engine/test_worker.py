"""Several workers on one queue: shared images, cores and adapters."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prompts.tasks import TASKS
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.model.florence2 import Florence2
from server.engine.runner import ModelRunner
from tests.server.engine import reference
from tests.server.engine.tiny import create_image, save_adapter

WAIT = 60.0
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers on a CPU need two cores")


def test_two_workers_generate_the_tokens_of_transformers(tiny: Checkpoint) -> None:
    with Engine(tiny, EngineConfig(max_batch=3, max_waiting=64), replicas=[tiny]) as engine:
        requests = [
            reference.create_request(token, create_image(i % 4), beams=1 + 2 * (i % 2), limit=6 + i)
            for i, token in enumerate([*TASKS, *TASKS])
        ]
        handles = [engine.submit(request) for request in requests]
        for request, handle in zip(requests, handles, strict=True):
            assert handle.wait(WAIT).tokens == reference.generate(tiny, request)
        assert all(worker.loop.rows > 0 for worker in engine.workers)
        stats = engine.get_stats()
        assert (stats.finished, stats.running, stats.waiting) == (len(requests), 0, 0)


def test_image_is_encoded_once_for_all_workers(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_images, encoding, release = Florence2.encode_images, threading.Event(), threading.Event()

    def slow_encode_images(*call: object) -> torch.Tensor:
        encoding.set()
        assert release.wait(WAIT)
        return encode_images(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(Florence2, "encode_images", slow_encode_images)
    with Engine(tiny, EngineConfig(max_batch=1, max_waiting=16), replicas=[tiny]) as engine:
        handles = [
            engine.submit(reference.create_request("<OD>", create_image(), beams=1, limit=4 + i)) for i in range(4)
        ]
        assert encoding.wait(WAIT)
        assert not release.wait(0.05)  # enough time for the other worker to encode it too
        release.set()
        assert all(handle.wait(WAIT).tokens for handle in handles)
        stats = engine.get_stats()
        assert (stats.images, stats.cache.hits, stats.cache.misses) == (1, 3, 1)


def test_failed_image_is_encoded_again_for_the_next_request(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_images, fails = Florence2.encode_images, [True]

    def failing_encode_images(*call: object) -> torch.Tensor:
        if fails:
            fails.clear()
            raise RuntimeError("once")
        return encode_images(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(Florence2, "encode_images", failing_encode_images)
    with Engine(tiny, EngineConfig(max_batch=1, max_waiting=16), replicas=[tiny]) as engine:
        first = engine.submit(reference.create_request("<OD>", create_image(), beams=1, limit=4))
        with pytest.raises(RuntimeError, match="once"):
            first.wait(WAIT)
        assert engine.submit(reference.create_request("<OD>", create_image(), beams=1, limit=4)).wait(WAIT).tokens


def test_each_worker_on_a_cpu_has_its_own_cores(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    own, step, here = dict[str, tuple[set[int], int]](), ModelRunner.step, os.sched_getaffinity(0)
    both = threading.Barrier(2)

    def recording_step(runner: ModelRunner) -> None:
        if (name := str(threading.get_ident())) not in own:
            own[name] = os.sched_getaffinity(0), torch.get_num_threads()
            both.wait(WAIT)
        step(runner)

    monkeypatch.setattr(ModelRunner, "step", recording_step)
    with Engine(tiny, EngineConfig(max_batch=1, max_waiting=16), replicas=[tiny]) as engine:
        handles = [engine.submit(reference.create_request("<OD>", create_image(i), beams=1, limit=9)) for i in range(2)]
        assert all(handle.wait(WAIT).tokens for handle in handles)
    (first, one), (second, two) = own.values()
    assert not first & second
    assert first | second == here == os.sched_getaffinity(0)
    assert (one, two) == (len(first), len(second))


def test_threads_outside_the_workers_keep_all_cores(tiny: Checkpoint) -> None:
    """Otherwise a fine-tune in a process that had an engine would run on one core."""
    before, later = torch.get_num_threads(), list[int]()
    torch.set_num_threads(3)
    try:
        with Engine(tiny, EngineConfig(max_batch=1, max_waiting=16), replicas=[tiny]) as engine:
            assert engine.submit(reference.create_request("<OD>", create_image(), beams=1, limit=9)).wait(WAIT).tokens
            assert torch.get_num_threads() == 3
            thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
            thread.start()
            thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)


def test_adapters_are_on_every_device(tiny: Checkpoint, tiny_folder: Path, tmp_path: Path) -> None:
    """A second checkpoint loaded from the same files stands for one on another device: it has its own layers."""
    folder = save_adapter(tmp_path / "a", target_modules=r"model\.language_model\..*(q_proj|v_proj|fc1|fc2)")
    with Engine(
        tiny, EngineConfig(max_batch=1, max_waiting=64), replicas=[load_checkpoint(str(tiny_folder))]
    ) as engine:
        engine.load_adapter("a", folder)
        requests = [reference.create_request("<OD>", create_image(i), beams=1, limit=8) for i in range(12)]

        handles = [engine.submit(replace(request, adapter="a")) for request in requests]
        for request, handle in zip(requests, handles, strict=True):
            assert handle.wait(WAIT).tokens == reference.generate(tiny, request, adapter=folder)
        assert all(worker.loop.rows > 0 for worker in engine.workers)
        engine.unload_adapter("a")
        # The last answer is complete a moment before its adapter is released.
        models, end = [worker.runner.model for worker in engine.workers], time.monotonic() + WAIT
        while any(linear.deltas for model in models for linear, _ in model.get_lora_targets().values()):
            assert time.monotonic() < end
            time.sleep(0.01)
