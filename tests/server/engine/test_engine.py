"""Submitting, sharing images, overload, deadlines, loading and closing."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prompts.tasks import TASKS
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from server.engine.handle import Handle
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request
from tests.server.engine import reference
from tests.server.engine.engines import WAIT, Gate, create_request
from tests.server.engine.tiny import create_image


def test_answers_equal_transformers(engine: Engine, tiny: Checkpoint) -> None:
    requests = [create_request(token, i % 3, beams=1 + 2 * (i % 2)) for i, token in enumerate(list(TASKS)[:8])]
    handles = [engine.submit(r) for r in requests]
    for request, handle in zip(requests, handles, strict=True):
        result = handle.wait(WAIT)
        assert result.tokens == reference.generate(tiny, request)
        assert result.logprobs == pytest.approx(reference.compute_logprobs(tiny, request, result.tokens), abs=1e-4)
        assert result.finish == ("stop" if len(result.tokens) < 12 else "length")
        assert result.timing.total_ms > 0


def test_settings_of_the_checkpoint_are_the_default(engine: Engine, tiny: Checkpoint) -> None:
    request = Request(create_image(), TASKS["<CAPTION>"])
    assert engine.submit(request).wait(WAIT).tokens == reference.generate(tiny, request, num_beams=3, max_new_tokens=96)


def test_many_threads(tiny: Checkpoint) -> None:
    engine = Engine(tiny, EngineConfig(max_batch=4, max_waiting=100))
    requests = [create_request(list(TASKS)[i % 6], i % 3, beams=1 + i % 2, limit=5 + i % 7) for i in range(48)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda r: engine.submit(r).wait(WAIT), requests))
    assert all(r.tokens == reference.generate(tiny, q) for q, r in zip(requests[:12], results[:12], strict=True))
    stats = engine.get_stats()
    assert (stats.submitted, stats.finished, stats.waiting) == (48, 48, 0)
    assert stats.tokens == sum(len(r.tokens) for r in results)
    assert stats.steps < stats.tokens  # several sequences per step
    assert (stats.images, stats.cache.misses, stats.cache.hits) == (3, 3, 45)
    assert min(stats.vision_seconds, stats.encode_seconds, stats.decode_seconds) > 0
    engine.close()


def test_shared_image_is_encoded_once(engine: Engine, gate: Gate) -> None:
    first = engine.submit(create_request("<OCR>", 9))
    gate.reached.wait(WAIT)
    image = create_image(1)
    handles = [
        engine.submit(reference.create_request(t, image, beams=1, limit=5)) for t in ("<OD>", "<OCR>", "<CAPTION>")
    ]
    # An equal image that is another object.
    handles.append(engine.submit(reference.create_request("<OD>", create_image(1), beams=1, limit=5)))
    gate.open.set()
    for handle in (first, *handles):
        handle.wait(WAIT)
    assert engine.get_stats().images == 2
    assert engine.get_stats().cache.hits == 3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 97}, "max_new_tokens"),
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": 9}, "num_beams"),
        ({"text": "x"}, "text"),
        ({"task": TASKS["<OPEN_VOCABULARY_DETECTION>"]}, "text"),
        ({"task": TASKS["<OPEN_VOCABULARY_DETECTION>"], "text": "q" * 91}, "text"),
        ({"task": TASKS["<REGION_TO_OCR>"], "region": (0, 0, 999, 5)}, "region"),
        ({"image": Image.new("RGB", (0, 5))}, "image"),
    ],
    ids=lambda change: "-".join(change) if isinstance(change, dict) else str(change),
)
def test_invalid_requests_are_rejected(engine: Engine, change: dict[str, Any], field: str) -> None:
    fields: dict[str, Any] = {"image": create_image(), "task": TASKS["<OD>"]}
    with pytest.raises(InvalidRequestError) as raised:
        engine.submit(Request(**(fields | change)))
    assert raised.value.field == field
    assert engine.get_stats().submitted == 0


def test_full_queue_rejects_requests(engine: Engine, gate: Gate) -> None:
    handles = [engine.submit(create_request(limit=4))]
    gate.reached.wait(WAIT)
    handles += [engine.submit(create_request(limit=4)) for _ in range(8)]
    with pytest.raises(OverloadedError) as raised:
        engine.submit(create_request())
    assert raised.value.waiting == 8
    assert raised.value.retry_after >= 1
    assert (engine.get_stats().waiting, engine.get_stats().running, engine.get_stats().rejected) == (8, 1, 1)
    gate.open.set()
    for handle in handles:
        handle.wait(WAIT)


def test_submit_blocking_waits_for_the_queue(engine: Engine, gate: Gate) -> None:
    handles = [engine.submit(create_request(limit=4))]
    gate.reached.wait(WAIT)
    handles += [engine.submit(create_request(limit=4)) for _ in range(8)]
    stop, ends = threading.Event(), time.monotonic() + WAIT
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(engine.submit_blocking, create_request(limit=4), threading.Event())
        stopped = pool.submit(engine.submit_blocking, create_request(limit=4), stop)
        try:
            while engine.get_stats().rejected < 2:
                assert time.monotonic() < ends
                time.sleep(0.01)
            stop.set()
            with pytest.raises(RequestCancelledError):
                stopped.result(WAIT)
            assert not waiting.done()
        finally:
            gate.open.set()
        handles.append(waiting.result(WAIT))
    for handle in handles:
        assert handle.wait(WAIT).tokens


def test_short_answer_does_not_wait_for_a_long_one(engine: Engine, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """It joins the running batch, whatever its beams, and leaves before the long one."""
    order: list[Handle] = []
    set_result = Handle.set_result
    monkeypatch.setattr(Handle, "set_result", lambda handle, result: order.append(handle) or set_result(handle, result))
    long = engine.submit(create_request("<OD>", 3, limit=60))
    gate.reached.wait(WAIT)
    short = [engine.submit(create_request(beams=beams, limit=3)) for beams in (1, 3, 2)]
    gate.open.set()
    for handle in (long, *short):
        handle.wait(WAIT)
    assert len(long.wait().tokens) > 6
    assert order[-1] is long
    assert engine.get_stats().rows > engine.get_stats().steps


def test_deadlines_fail_requests(engine: Engine, gate: Gate) -> None:
    running = engine.submit(replace(create_request(limit=90), timeout=0.05))
    gate.reached.wait(WAIT)
    waiting = [engine.submit(replace(create_request(limit=3), timeout=0.05)) for _ in range(5)]
    later = engine.submit(create_request(limit=3))
    time.sleep(0.1)
    gate.open.set()
    for handle in (running, *waiting):
        with pytest.raises(DeadlineExceededError):
            handle.wait(WAIT)
    assert later.wait(WAIT).tokens
    assert (engine.get_stats().failed, engine.get_stats().finished) == (6, 1)


def test_prepared_image_gets_the_same_answer(engine: Engine) -> None:
    request = create_request()
    assert not isinstance(request.image, PreparedImage)
    prepared = replace(request, image=engine.prepare(request.image))
    one, two = engine.submit(request).wait(WAIT), engine.submit(prepared).wait(WAIT)
    assert (one.tokens, one.annotations) == (two.tokens, two.annotations)
    assert engine.get_stats().images == 1


def test_close_finishes_all_answers(tiny: Checkpoint) -> None:
    engine = Engine(tiny, EngineConfig(max_batch=2))
    handles = [engine.submit(create_request(seed=i, limit=10)) for i in range(7)]
    engine.close()
    assert all(handle.wait(0).tokens for handle in handles)
    with pytest.raises(EngineClosedError):
        engine.submit(create_request())
    engine.close()  # has no effect


def test_close_without_draining_ends_at_once(tiny: Checkpoint, gate: Gate) -> None:
    engine = Engine(tiny, EngineConfig(max_batch=2))
    handles = [engine.submit(create_request(limit=90)) for _ in range(6)]
    gate.reached.wait(WAIT)
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    while not engine.workers[0].loop.abort_all:
        time.sleep(0.001)
    gate.open.set()
    closing.join(WAIT)
    for handle in handles:
        with pytest.raises(EngineClosedError):
            handle.wait(0)
    assert gate.steps <= 1


def test_load(tiny_folder: Path) -> None:
    with Engine.load(EngineConfig(str(tiny_folder), device="cpu")) as engine:
        assert engine.checkpoint.model.dtype == torch.float32
        assert engine.submit(create_request()).wait(WAIT).tokens
    for options in ({"device": "abacus"}, {"device": "cpu", "dtype": "float7"}):
        with pytest.raises(CheckpointError):
            Engine.load(EngineConfig(str(tiny_folder), **options))
