"""Helpers for tests of a running engine."""

import threading
from typing import Any

import pytest
import torch

from prompts.annotations import Annotation
from server.engine.decoding.token_selection import TokenSelector
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request
from server.engine.runner import ModelRunner
from tests.server.engine import reference
from tests.server.engine.tiny import create_image

WAIT = 30.0  # seconds


class Gate:
    """Blocks the decoder before a step until `open` is set.

    `reached` is set when a step waits. `steps` counts the steps since then.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open, self.steps = threading.Event(), threading.Event(), 0
        step = ModelRunner.step

        def gated_step(runner: ModelRunner) -> None:
            self.reached.set()
            assert self.open.wait(WAIT)
            self.steps += 1
            step(runner)

        monkeypatch.setattr(ModelRunner, "step", gated_step)


def create_request(token: str = "<OD>", seed: int = 0, *, beams: int = 1, limit: int = 12) -> Request:
    return reference.create_request(token, create_image(seed), beams=beams, limit=limit)


async def collect_annotations(handle: Handle) -> list[Annotation]:
    return [annotation async for annotation in handle.stream()]


def force_answer(
    monkeypatch: pytest.MonkeyPatch, text: str, engine: Engine, *, hold_after: int | None = None
) -> threading.Event:
    """Makes the model generate the tokens of `text`. Returns an event that step `hold_after` waits for."""
    ids = engine.checkpoint.tokenizer.encode_prompt(text)
    select, resume = TokenSelector.select, threading.Event()

    def select_forced(selector: TokenSelector, searches: Any, logits: torch.Tensor, *rest: Any) -> Any:
        logits[:] = -50.0
        for row, search in enumerate(searches):
            if search.length == hold_after:
                assert resume.wait(WAIT)
            logits[row, ids[search.length]] = 0.0
        return select(selector, searches, logits, *rest)

    monkeypatch.setattr(TokenSelector, "select", select_forced)
    return resume
