"""The seam: submit, wait, stream, cancel, overload, close, and requests that go wrong."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from prompts.annotations import Annotation
from prompts.tasks import TASKS
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.decoding.token_selection import TokenSelector
from server.engine.engine import Engine
from server.engine.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from server.engine.handle import Handle
from server.engine.model.florence2 import Florence2
from server.engine.model.preprocessing import PreparedImage
from server.engine.request import Request
from server.engine.runner import ModelRunner
from tests.server.engine import reference
from tests.server.engine.tiny import create_image

WAIT = 30.0


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, EngineConfig(max_batch=4, max_waiting=8)) as made:
        yield made


class Gate:
    """Holds the decoder before a step until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open, self.steps = threading.Event(), threading.Event(), 0
        step = ModelRunner.step

        def gated(runner: ModelRunner) -> None:
            self.reached.set()
            assert self.open.wait(WAIT)
            self.steps += 1
            step(runner)

        monkeypatch.setattr(ModelRunner, "step", gated)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def ask(token: str = "<OD>", seed: int = 0, *, beams: int = 1, limit: int = 12) -> Request:
    return reference.create_request(token, create_image(seed), beams=beams, limit=limit)


def test_answers_equal_transformers(engine: Engine, tiny: Checkpoint) -> None:
    requests = [ask(token, i % 3, beams=1 + 2 * (i % 2)) for i, token in enumerate(list(TASKS)[:8])]
    handles = [engine.submit(r) for r in requests]
    for request, handle in zip(requests, handles, strict=True):
        result = handle.wait(WAIT)
        assert result.tokens == reference.generate(tiny, request)
        assert result.logprobs == pytest.approx(reference.compute_logprobs(tiny, request, result.tokens), abs=1e-4)
        assert result.finish == ("stop" if len(result.tokens) < 12 else "length")
        assert result.timing.total_ms > 0


def test_the_checkpoints_own_settings_are_the_default(engine: Engine, tiny: Checkpoint) -> None:
    request = Request(create_image(), TASKS["<CAPTION>"])
    assert engine.submit(request).wait(WAIT).tokens == reference.generate(tiny, request, num_beams=3, max_new_tokens=96)


def test_many_threads(tiny: Checkpoint) -> None:
    engine = Engine(tiny, EngineConfig(max_batch=4, max_waiting=100))
    requests = [ask(list(TASKS)[i % 6], i % 3, beams=1 + i % 2, limit=5 + i % 7) for i in range(48)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda r: engine.submit(r).wait(WAIT), requests))
    assert all(r.tokens == reference.generate(tiny, q) for q, r in zip(requests[:12], results[:12], strict=True))
    stats = engine.stats()
    assert (stats.submitted, stats.finished, stats.waiting) == (48, 48, 0)
    assert stats.tokens == sum(len(r.tokens) for r in results)
    assert stats.steps < stats.tokens  # several answers a step
    assert (stats.images, stats.cache.misses, stats.cache.hits) == (3, 3, 45)
    assert min(stats.vision_seconds, stats.encode_seconds, stats.decode_seconds) > 0
    engine.close()


def test_one_picture_is_seen_once(engine: Engine, gate: Gate) -> None:
    first = engine.submit(ask("<OCR>", 9))
    gate.reached.wait(WAIT)
    image = create_image(1)
    handles = [
        engine.submit(reference.create_request(t, image, beams=1, limit=5)) for t in ("<OD>", "<OCR>", "<CAPTION>")
    ]
    handles.append(
        engine.submit(reference.create_request("<OD>", create_image(1), beams=1, limit=5))
    )  # an equal one, its own object
    gate.open.set()
    for handle in (first, *handles):
        handle.wait(WAIT)
    assert engine.stats().images == 2
    assert engine.stats().cache.hits == 3


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
def test_what_the_model_cannot_take(engine: Engine, change: dict[str, Any], field: str) -> None:
    fields: dict[str, Any] = {"image": create_image(), "task": TASKS["<OD>"]}
    with pytest.raises(InvalidRequestError) as raised:
        engine.submit(Request(**(fields | change)))
    assert raised.value.field == field
    assert engine.stats().submitted == 0


async def test_annotations_stream_before_the_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_answer(monkeypatch, "cat<loc_1><loc_2><loc_3><loc_4>dog<loc_5><loc_6><loc_7><loc_8>", engine, hold_after=9)
    handle = engine.submit(ask("<OD>", limit=40))
    stream = handle.stream()
    first = await asyncio.wait_for(anext(stream), WAIT)
    assert first.label == "cat"
    assert not handle.done()
    HOLD.set()
    assert [note.label async for note in stream] == ["dog"]
    assert await collect(handle) == (await handle.result()).annotations  # a late follower gets all


@pytest.mark.parametrize("beams", [1, 3])
async def test_tokens_stream_too(engine: Engine, beams: int) -> None:
    handle = engine.submit(ask("<OD>", beams=beams, limit=20))
    assert [token async for token in handle.stream_tokens()] == (await handle.result()).tokens


async def test_beams_stream_at_their_end(engine: Engine) -> None:
    handle = engine.submit(ask("<REGION_PROPOSAL>", beams=3, limit=30))
    assert await collect(handle) == (await handle.result()).annotations


HOLD = threading.Event()


def fake_answer(
    monkeypatch: pytest.MonkeyPatch, text: str, engine: Engine, *, hold_after: int | None = None
) -> list[int]:
    """Makes the decoder offer the tokens of `text`, one a step; before step `hold_after` it waits for HOLD."""
    HOLD.clear()
    ids = [*engine.checkpoint.tokenizer.encode_prompt(text)]
    candidates = TokenSelector.select

    def offered(chooser: TokenSelector, searches: Any, logits: torch.Tensor, *rest: Any) -> Any:
        logits[:] = -50.0
        for row, search in enumerate(searches):
            if search.length == hold_after:
                assert HOLD.wait(WAIT)
            logits[row, ids[search.length]] = 0.0
        return candidates(chooser, searches, logits, *rest)

    monkeypatch.setattr(TokenSelector, "select", offered)
    return ids


def test_cancel_frees_the_place(engine: Engine, gate: Gate) -> None:
    running = [engine.submit(ask(seed=i, limit=90)) for i in range(2)]
    gate.reached.wait(WAIT)
    waiting = engine.submit(ask(limit=3))
    gone = engine.submit(ask(limit=3))
    gone.cancel()
    with pytest.raises(RequestCancelledError):  # at once: the decoder is still held
        gone.wait(0)
    for handle in running:
        handle.cancel()
        handle.cancel()
    gate.open.set()
    for handle in running:
        with pytest.raises(RequestCancelledError):
            handle.wait(WAIT)
    assert waiting.wait(WAIT).tokens
    assert gate.steps <= 1 + 3
    waiting.cancel()  # too late, and no error
    assert waiting.wait(0).tokens
    stats = engine.stats()
    assert (stats.cancelled, stats.finished, stats.failed) == (3, 1, 0)


async def test_a_cancelled_stream_raises(engine: Engine, gate: Gate) -> None:
    handle = engine.submit(ask(limit=90))
    follower = asyncio.create_task(collect(handle))
    await asyncio.to_thread(gate.reached.wait, WAIT)
    handle.cancel()
    gate.open.set()
    with pytest.raises(RequestCancelledError):
        await follower
    with pytest.raises(RequestCancelledError):
        await handle.result()


async def test_to_stop_waiting_is_not_to_cancel(engine: Engine, gate: Gate) -> None:
    handle = engine.submit(ask(limit=4))
    waiter = asyncio.create_task(handle.result())
    await asyncio.to_thread(gate.reached.wait, WAIT)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    gate.open.set()
    assert (await handle.result()).tokens


async def collect(handle: Handle) -> list[Annotation]:
    return [note async for note in handle.stream()]


def test_overload(engine: Engine, gate: Gate) -> None:
    handles = [engine.submit(ask(limit=4))]
    gate.reached.wait(WAIT)
    handles += [engine.submit(ask(limit=4)) for _ in range(8)]
    with pytest.raises(OverloadedError) as raised:
        engine.submit(ask())
    assert raised.value.waiting == 8
    assert raised.value.retry_after >= 1
    assert (engine.stats().waiting, engine.stats().running, engine.stats().rejected) == (8, 1, 1)
    gate.open.set()
    for handle in handles:
        handle.wait(WAIT)


def test_what_can_wait_waits_for_room(engine: Engine, gate: Gate) -> None:
    handles = [engine.submit(ask(limit=4))]
    gate.reached.wait(WAIT)
    handles += [engine.submit(ask(limit=4)) for _ in range(8)]
    given_up, ends = threading.Event(), time.monotonic() + WAIT
    with ThreadPoolExecutor(2) as pool:
        patient = pool.submit(engine.submit_blocking, ask(limit=4), threading.Event())
        stopped = pool.submit(engine.submit_blocking, ask(limit=4), given_up)
        try:
            while engine.stats().rejected < 2:
                assert time.monotonic() < ends
                time.sleep(0.01)
            given_up.set()
            with pytest.raises(RequestCancelledError):
                stopped.result(WAIT)
            assert not patient.done()
        finally:
            gate.open.set()
        handles.append(patient.result(WAIT))
    for handle in handles:
        assert handle.wait(WAIT).tokens


def test_a_short_answer_does_not_wait_for_a_long_one(engine: Engine, gate: Gate) -> None:
    """It enters beside the long one, whatever its beams, and leaves before it."""
    order: list[str] = []
    long = engine.submit(ask("<OD>", 3, limit=60))
    gate.reached.wait(WAIT)
    short = [engine.submit(ask(beams=beams, limit=3)) for beams in (1, 3, 2)]
    for name, handle in zip(("long", "a", "b", "c"), (long, *short), strict=True):
        handle._future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    gate.open.set()
    for handle in (long, *short):
        handle.wait(WAIT)
    assert len(long.wait().tokens) > 6
    assert order[-1] == "long"
    assert engine.stats().rows > engine.stats().steps


def test_what_takes_too_long_is_given_up(engine: Engine, gate: Gate) -> None:
    running = engine.submit(replace(ask(limit=90), timeout=0.05))
    gate.reached.wait(WAIT)
    waiting = [engine.submit(replace(ask(limit=3), timeout=0.05)) for _ in range(5)]
    later = engine.submit(ask(limit=3))
    time.sleep(0.1)
    gate.open.set()
    for handle in (running, *waiting):
        with pytest.raises(DeadlineExceededError):
            handle.wait(WAIT)
    assert later.wait(WAIT).tokens
    assert (engine.stats().failed, engine.stats().finished) == (6, 1)


def test_a_prepared_picture_is_the_same_question(engine: Engine) -> None:
    request = ask()
    assert not isinstance(request.image, PreparedImage)
    prepared = replace(request, image=engine.prepare(request.image))
    one, two = engine.submit(request).wait(WAIT), engine.submit(prepared).wait(WAIT)
    assert (one.tokens, one.annotations) == (two.tokens, two.annotations)
    assert engine.stats().images == 1


class Poison(Image.Image):
    """A picture that fails when its pixels are wanted."""

    def resize(self, *_: Any, **__: Any) -> Image.Image:
        raise OSError("these pixels cannot be had")


def test_a_poisonous_picture_fails_alone(engine: Engine) -> None:
    bad = Poison()
    bad._size, bad._mode, bad.im = (8, 8), "RGB", Image.new("RGB", (8, 8)).im
    good = engine.submit(ask())
    with pytest.raises(OSError, match="cannot be had"):
        engine.submit(Request(bad, TASKS["<OD>"], num_beams=1))
    assert good.wait(WAIT).tokens == engine.submit(ask()).wait(WAIT).tokens


def test_what_fails_together_is_tried_apart(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when together they are too much for the memory, or one is more than the device can bear."""
    read = Florence2.encode_prompts

    def choking(model: Florence2, features: torch.Tensor, prompts: Any, shares: Any = ()) -> Any:
        if len(prompts) > 1 or len(prompts[0]) > 60:
            raise torch.OutOfMemoryError("too much")
        return read(model, features, prompts, shares)

    gate = Gate(monkeypatch)
    first = engine.submit(ask(limit=4))
    gate.reached.wait(WAIT)
    monkeypatch.setattr(Florence2, "encode_prompts", choking)
    handles = [engine.submit(ask(seed=i % 2, limit=6)) for i in range(4)]
    long = Request(create_image(), TASKS["<OPEN_VOCABULARY_DETECTION>"], "y" * 60, num_beams=1)
    choked = engine.submit(long)
    gate.open.set()
    assert first.wait(WAIT)
    assert all(handle.wait(WAIT).tokens for handle in handles)
    with pytest.raises(torch.OutOfMemoryError):
        choked.wait(WAIT)
    assert engine.stats().failed == 1
    assert engine.stats().out_of_memory >= 2


@pytest.mark.parametrize("error", [RuntimeError("once"), torch.OutOfMemoryError("once")], ids=["fault", "memory"])
async def test_a_second_try_does_not_stream_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fake_answer(monkeypatch, "cat<loc_1><loc_2><loc_3><loc_4>dog<loc_5><loc_6><loc_7><loc_8>", engine)
    fails = {10}
    step = ModelRunner.step

    def failing(runner: ModelRunner) -> None:
        if runner.decoder.steps in fails:
            fails.clear()
            raise error
        step(runner)

    monkeypatch.setattr(ModelRunner, "step", failing)
    handles = [engine.submit(ask(seed=i, limit=40)) for i in range(3)]
    for handle in handles:
        assert [note.label for note in await collect(handle)] == ["cat", "dog"]
    assert not fails
    assert engine.stats().out_of_memory == isinstance(error, torch.OutOfMemoryError)


def test_not_a_number_fails_the_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    say = Florence2.decode
    monkeypatch.setattr(Florence2, "decode", lambda *call: say(*call) * float("nan"))
    for beams in (1, 3):
        with pytest.raises(FloatingPointError, match="not a number"):
            engine.submit(ask(beams=beams)).wait(WAIT)
    monkeypatch.undo()
    assert engine.submit(ask()).wait(WAIT).tokens


def test_close_drains(tiny: Checkpoint) -> None:
    engine = Engine(tiny, EngineConfig(max_batch=2))
    handles = [engine.submit(ask(seed=i, limit=10)) for i in range(7)]
    engine.close()
    assert all(handle.wait(0).tokens for handle in handles)
    with pytest.raises(EngineClosedError):
        engine.submit(ask())
    engine.close()  # twice is once


def test_close_without_draining_is_quick(tiny: Checkpoint, gate: Gate) -> None:
    engine = Engine(tiny, EngineConfig(max_batch=2))
    handles = [engine.submit(ask(limit=90)) for _ in range(6)]
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
        assert engine.submit(ask()).wait(WAIT).tokens
    for options in ({"device": "abacus"}, {"device": "cpu", "dtype": "float7"}):
        with pytest.raises(CheckpointError):
            Engine.load(EngineConfig(str(tiny_folder), **options))
