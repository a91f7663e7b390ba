"""Requests decoded together without an engine around them: who enters at which step is the test's to say."""

from collections.abc import Callable
from collections.abc import Sequence as Many

from PIL import Image

from prompts.tasks import TASKS
from server.engine.checkpoint import Checkpoint
from server.engine.features import FeatureCache
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.engine.runner import Runner
from server.engine.sequence import Sequence, plan
from tests.server.engine import reference
from tests.server.engine.tiny import picture

LIMITS = (24, 1, 9, 2, 40, 17)


def questions(beams: int, show: Callable[[int, tuple[int, int]], Image.Image] = picture) -> list[Request]:
    """Every task, on pictures of several shapes, with limits that differ. `show`: the picture of a number and a
    size."""
    shapes = ((80, 60), (40, 90), (64, 64))
    return [
        reference.request(token, show(i % 4, shapes[i % 3]), beams=beams, limit=LIMITS[i % len(LIMITS)])
        for i, token in enumerate(TASKS)
    ]


def sequences_of(checkpoint: Checkpoint, requests: Many[Request], **options: int) -> list[Sequence]:
    """`options`: those of Sequence."""
    return [Sequence(plan(r, checkpoint), checkpoint, Handle(lambda _: None), **options) for r in requests]


def run(runner: Runner, sequences: Many[Sequence], arrivals: Many[int]) -> list[Result]:
    """Decodes sequences, each entering at its own step; those that are done leave at once."""
    running: list[Sequence] = []
    for step in range(10_000):
        if entering := [s for s, at in zip(sequences, arrivals, strict=True) if at == step]:
            runner.enter(entering)
            running += entering
        for sequence in [s for s in running if s.read()]:
            runner.leave(sequence)
            running.remove(sequence)
        if running:
            runner.step()
        elif step >= max(arrivals):
            break
    assert len(runner.decoder) == 0
    return [s.result() for s in sequences]


def decode(checkpoint: Checkpoint, requests: Many[Request], arrivals: Many[int] = ()) -> list[Result]:
    """All requests in one batch; `arrivals`: the step at which each enters, the first if there are none."""
    runner = Runner(checkpoint, len(requests), FeatureCache(1 << 20))
    return run(runner, sequences_of(checkpoint, requests), arrivals or [0] * len(requests))
