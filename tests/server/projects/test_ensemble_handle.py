"""One prompt that several answer: held as if one did."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest
from PIL import Image

from prompts.annotations import Box
from prompts.tasks import TASKS
from server.engine.errors import OverloadedError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.projects.ensemble_handle import EnsembleHandle
from server.projects.ensembles import Ensemble
from server.store.projects.ensembles import BoxFusion
from tests.server.helpers import PATIENCE, StuckEngine


def box(x: float, score: float = 0.8) -> Box:
    return Box(label="bird", box=(x, 0.0, x + 10.0, 10.0), score=score)


def asked(engine: StuckEngine, *, members: int = 3) -> EnsembleHandle:
    fusion = BoxFusion(combine="fuse", models=tuple(range(1, members + 1)))
    panel = Ensemble("all", tuple(f"run-{i}" for i in range(members)), (), fusion)
    held = panel.ask(engine.submit, Request(engine.prepare(Image.new("RGB", (64, 48))), TASKS["<OD>"]))
    assert isinstance(held, EnsembleHandle)
    return held


async def test_nothing_is_streamed_before_the_last_has_answered() -> None:
    engine, seen = StuckEngine(), list[Box]()
    held = asked(engine)

    async def follow() -> None:
        async for annotation in held.stream():
            assert isinstance(annotation, Box)
            seen.append(annotation)

    following = asyncio.create_task(follow())
    for index in (2, 0, 1):
        assert not held.done()
        await asyncio.sleep(0.02)
        assert seen == []
        engine.finish(index, [box(0), box(30 + 10 * index)] if index else [box(0)])
    await following
    assert held.done()
    result = await held.result()
    assert seen == result.annotations
    assert [(note.box[0], round(note.score or 0, 2)) for note in seen] == [(0, 0.8), (40, 0.27), (50, 0.27)]
    assert (result.text, result.tokens, result.finish) == ("said\nsaid\nsaid", [2, 2, 2], "stop")
    assert held.wait(0) is result


def test_answers_are_combined_once_however_many_wait() -> None:
    handles = [Handle(lambda handle: None) for _ in range(2)]
    calls: list[int] = []

    def combine(results: Sequence[Result]) -> Result:
        calls.append(len(results))
        time.sleep(0.02)
        return results[0]

    held = EnsembleHandle(handles, combine)
    waiting = [threading.Thread(target=held.wait, args=(PATIENCE,)) for _ in range(4)]
    for thread in waiting:
        thread.start()
    with pytest.raises(TimeoutError):
        held.wait(0.01)
    for handle in handles:
        handle._finish(Result([], "", [2], [0.0], "length"))
    for thread in waiting:
        thread.join(PATIENCE)
    assert calls == [2]


async def test_what_goes_wrong_with_one_is_told_at_once_and_the_rest_can_be_given_up() -> None:
    engine = StuckEngine()
    held = asked(engine)
    engine.handles[1]._fail(RuntimeError("the model failed"))
    with pytest.raises(RuntimeError, match="the model failed"):
        await held.result()
    assert not held.done()
    held.cancel()
    assert held.done()
    with pytest.raises(RequestCancelledError):
        engine.handles[2].wait(0)


def test_of_too_many_none_is_asked() -> None:
    engine = StuckEngine(room=2)
    with pytest.raises(OverloadedError):
        asked(engine)
    assert [handle.cancelled for handle in engine.handles] == [True, True]
    assert isinstance(asked(engine, members=2), EnsembleHandle)
