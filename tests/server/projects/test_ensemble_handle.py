"""One prompt that several models answer: its handle works as that of one model."""

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from prompts.annotations import Box
from prompts.tasks import TASKS
from server.engine.errors import OverloadedError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.projects.ensemble_handle import EnsembleHandle
from server.projects.ensembles import Ensemble
from server.store.projects.ensembles import BoxFusion
from tests.server.helpers import TIMEOUT, StuckEngine


def box(x: float, score: float = 0.8) -> Box:
    return Box(label="bird", box=(x, 0.0, x + 10.0, 10.0), score=score)


def submit(engine: StuckEngine, *, members: int = 3) -> EnsembleHandle:
    fusion = BoxFusion(combine="fuse", models=tuple(range(1, members + 1)))
    ensemble = Ensemble("all", tuple(f"run-{i}" for i in range(members)), (), fusion)
    request = Request(engine.prepare_resized((64, 48), np.zeros((1, 1, 3), np.uint8)), TASKS["<OD>"])
    handle = ensemble.submit(engine.submit, request)
    assert isinstance(handle, EnsembleHandle)
    return handle


async def test_nothing_is_streamed_before_the_last_member_has_answered() -> None:
    engine, streamed = StuckEngine(), list[Box]()
    handle = submit(engine)

    async def follow() -> None:
        async for annotation in handle.stream():
            assert isinstance(annotation, Box)
            streamed.append(annotation)

    following = asyncio.create_task(follow())
    for index in (2, 0, 1):
        assert not handle.done()
        await asyncio.sleep(0.02)
        assert streamed == []
        engine.finish(index, [box(0), box(30 + 10 * index)] if index else [box(0)])
    await following
    assert handle.done()
    result = await handle.result()
    assert streamed == result.annotations
    assert [(each.box[0], round(each.score or 0, 2)) for each in streamed] == [(0, 0.8), (40, 0.27), (50, 0.27)]
    assert (result.text, result.tokens, result.finish) == ("said\nsaid\nsaid", [2, 2, 2], "stop")
    assert handle.wait(0) is result


def test_answers_are_merged_once_for_all_waiting_threads() -> None:
    handles = [Handle(lambda: None) for _ in range(2)]
    calls: list[int] = []

    def combine(results: Sequence[Result]) -> Result:
        calls.append(len(results))
        time.sleep(0.02)
        return results[0]

    handle = EnsembleHandle(handles, combine)
    threads = [threading.Thread(target=handle.wait, args=(TIMEOUT,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    with pytest.raises(TimeoutError):
        handle.wait(0.01)
    for member in handles:
        member.set_result(Result([], "", [2], [0.0], "length"))
    for thread in threads:
        thread.join(TIMEOUT)
    assert calls == [2]


async def test_an_error_of_one_member_is_raised_at_once_and_the_others_can_be_cancelled() -> None:
    engine = StuckEngine()
    handle = submit(engine)
    engine.handles[1].set_exception(RuntimeError("the model failed"))
    with pytest.raises(RuntimeError, match="the model failed"):
        await handle.result()
    assert not handle.done()
    handle.cancel()
    assert handle.done()
    with pytest.raises(RequestCancelledError):
        engine.handles[2].wait(0)


def test_if_the_queue_has_no_room_for_all_members_none_is_submitted() -> None:
    engine = StuckEngine(room=2)
    with pytest.raises(OverloadedError):
        submit(engine)
    assert [handle.cancelled for handle in engine.handles] == [True, True]
    assert isinstance(submit(engine, members=2), EnsembleHandle)
