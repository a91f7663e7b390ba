"""Streaming and cancelling through the handle of a request."""

import asyncio

import pytest

from server.engine.engine import Engine
from server.engine.errors import RequestCancelledError
from tests.server.engine.engines import WAIT, Gate, collect_annotations, create_request, force_answer


async def test_annotations_are_streamed_before_the_answer_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    resume = force_answer(
        monkeypatch, "cat<loc_1><loc_2><loc_3><loc_4>dog<loc_5><loc_6><loc_7><loc_8>", engine, hold_after=9
    )
    handle = engine.submit(create_request("<OD>", limit=40))
    stream = handle.stream()
    first = await asyncio.wait_for(anext(stream), WAIT)
    assert first.label == "cat"
    assert not handle.done()
    resume.set()
    assert [annotation.label async for annotation in stream] == ["dog"]
    assert await collect_annotations(handle) == (await handle.result()).annotations  # a later stream yields all of them


@pytest.mark.parametrize("beams", [1, 3])
async def test_tokens_are_streamed(engine: Engine, beams: int) -> None:
    handle = engine.submit(create_request("<OD>", beams=beams, limit=20))
    assert [token async for token in handle.stream_tokens()] == (await handle.result()).tokens


async def test_beam_search_streams_at_the_end(engine: Engine) -> None:
    handle = engine.submit(create_request("<REGION_PROPOSAL>", beams=3, limit=30))
    assert await collect_annotations(handle) == (await handle.result()).annotations


def test_cancelling_frees_the_slot(engine: Engine, gate: Gate) -> None:
    running = [engine.submit(create_request(seed=i, limit=90)) for i in range(2)]
    gate.reached.wait(WAIT)
    waiting = engine.submit(create_request(limit=3))
    cancelled = engine.submit(create_request(limit=3))
    cancelled.cancel()
    with pytest.raises(RequestCancelledError):  # at once: the decoder is still blocked
        cancelled.wait(0)
    for handle in running:
        handle.cancel()
        handle.cancel()
    gate.open.set()
    for handle in running:
        with pytest.raises(RequestCancelledError):
            handle.wait(WAIT)
    assert waiting.wait(WAIT).tokens
    assert gate.steps <= 1 + 3
    waiting.cancel()  # too late, which is no error
    assert waiting.wait(0).tokens
    stats = engine.get_stats()
    assert (stats.cancelled, stats.finished, stats.failed) == (3, 1, 0)


async def test_stream_of_a_cancelled_request_raises(engine: Engine, gate: Gate) -> None:
    handle = engine.submit(create_request(limit=90))
    collector = asyncio.create_task(collect_annotations(handle))
    await asyncio.to_thread(gate.reached.wait, WAIT)
    handle.cancel()
    gate.open.set()
    with pytest.raises(RequestCancelledError):
        await collector
    with pytest.raises(RequestCancelledError):
        await handle.result()


async def test_cancelled_waiter_does_not_cancel_the_request(engine: Engine, gate: Gate) -> None:
    handle = engine.submit(create_request(limit=4))
    waiter = asyncio.create_task(handle.result())
    await asyncio.to_thread(gate.reached.wait, WAIT)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    gate.open.set()
    assert (await handle.result()).tokens
