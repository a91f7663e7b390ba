"""Requests that fail, and those that run with them."""

from typing import Any

import pytest
import torch
from PIL import Image

from prompts.tasks import TASKS
from server.engine.engine import Engine
from server.engine.model.florence2 import Florence2
from server.engine.request import Request
from server.engine.runner import ModelRunner
from tests.server.engine.engines import WAIT, Gate, collect_annotations, create_request, force_answer
from tests.server.engine.tiny import create_image


class BrokenImage(Image.Image):
    """An image whose pixels cannot be read."""

    def resize(self, *_: Any, **__: Any) -> Image.Image:
        raise OSError("these pixels cannot be read")


def test_broken_image_does_not_fail_other_requests(engine: Engine) -> None:
    broken = BrokenImage()
    broken._size, broken._mode, broken.im = (8, 8), "RGB", Image.new("RGB", (8, 8)).im
    good = engine.submit(create_request())
    with pytest.raises(OSError, match="cannot be read"):
        engine.submit(Request(broken, TASKS["<OD>"], num_beams=1))
    assert good.wait(WAIT).tokens == engine.submit(create_request()).wait(WAIT).tokens


def test_requests_that_fail_together_are_retried_separately(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when several requests together, or a single large one, exceed the memory."""
    encode_prompts = Florence2.encode_prompts

    def fail_on_large_batches(model: Florence2, features: torch.Tensor, prompts: Any, adapters: Any = ()) -> Any:
        if len(prompts) > 1 or len(prompts[0]) > 60:
            raise torch.OutOfMemoryError("too much")
        return encode_prompts(model, features, prompts, adapters)

    gate = Gate(monkeypatch)
    first = engine.submit(create_request(limit=4))
    gate.reached.wait(WAIT)
    monkeypatch.setattr(Florence2, "encode_prompts", fail_on_large_batches)
    handles = [engine.submit(create_request(seed=i % 2, limit=6)) for i in range(4)]
    long = Request(create_image(), TASKS["<OPEN_VOCABULARY_DETECTION>"], "y" * 60, num_beams=1)
    failing = engine.submit(long)
    gate.open.set()
    assert first.wait(WAIT)
    assert all(handle.wait(WAIT).tokens for handle in handles)
    with pytest.raises(torch.OutOfMemoryError):
        failing.wait(WAIT)
    assert engine.get_stats().failed == 1
    assert engine.get_stats().out_of_memory >= 2


@pytest.mark.parametrize("error", [RuntimeError("once"), torch.OutOfMemoryError("once")], ids=["fault", "memory"])
async def test_retry_does_not_stream_annotations_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    force_answer(monkeypatch, "cat<loc_1><loc_2><loc_3><loc_4>dog<loc_5><loc_6><loc_7><loc_8>", engine)
    fails = {10}
    step = ModelRunner.step

    def failing_step(runner: ModelRunner) -> None:
        if runner.decoder.steps in fails:
            fails.clear()
            raise error
        step(runner)

    monkeypatch.setattr(ModelRunner, "step", failing_step)
    handles = [engine.submit(create_request(seed=i, limit=40)) for i in range(3)]
    for handle in handles:
        assert [annotation.label for annotation in await collect_annotations(handle)] == ["cat", "dog"]
    assert not fails
    assert engine.get_stats().out_of_memory == isinstance(error, torch.OutOfMemoryError)


def test_nan_logits_fail_the_request(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Florence2.decode
    monkeypatch.setattr(Florence2, "decode", lambda *call: decode(*call) * float("nan"))
    for beams in (1, 3):
        with pytest.raises(FloatingPointError, match="not a number"):
            engine.submit(create_request(beams=beams)).wait(WAIT)
    monkeypatch.undo()
    assert engine.submit(create_request()).wait(WAIT).tokens
