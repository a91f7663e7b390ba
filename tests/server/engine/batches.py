"""Runs batches of requests without an engine, so that a test decides which request enters at which step."""

from collections.abc import Callable, Sequence

from PIL import Image

from prompts.tasks import FLORENCE_TASKS
from server.engine import sequence as engine_sequence
from server.engine.checkpoints.loading import Checkpoint
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Request, Result
from server.engine.runner import ModelRunner
from tests.server.engine import reference
from tests.server.engine.tiny import create_image

LIMITS = (24, 1, 9, 2, 40, 17)


def create_requests(
    beams: int, draw_image: Callable[[int, tuple[int, int]], Image.Image] = create_image
) -> list[Request]:
    """Returns one request per task, with images of several shapes and different limits.

    `draw_image`: returns an image for a seed and a size.
    """
    shapes = ((80, 60), (40, 90), (64, 64))
    return [
        reference.create_request(token, draw_image(i % 4, shapes[i % 3]), beams=beams, limit=LIMITS[i % len(LIMITS)])
        for i, token in enumerate(FLORENCE_TASKS)
    ]


def create_sequences(checkpoint: Checkpoint, requests: Sequence[Request]) -> list[engine_sequence.Sequence]:
    return [engine_sequence.Sequence(request, checkpoint) for request in requests]


def run_sequences(
    runner: ModelRunner, sequences: Sequence[engine_sequence.Sequence], arrivals: Sequence[int]
) -> list[Result]:
    """Decodes sequences. Each enters at its step in `arrivals` and leaves as soon as it is done."""
    running: list[engine_sequence.Sequence] = []
    for step in range(10_000):
        if arriving := [s for s, at in zip(sequences, arrivals, strict=True) if at == step]:
            runner.add(arriving)
            running += arriving
        for sequence in [s for s in running if s.process_output()]:
            runner.remove(sequence)
            running.remove(sequence)
        if running:
            runner.step()
        elif step >= max(arrivals):
            break
    assert len(runner.decoder) == 0
    return [s.create_result() for s in sequences]


def decode_batch(checkpoint: Checkpoint, requests: Sequence[Request], arrivals: Sequence[int] = ()) -> list[Result]:
    """Decodes all requests in one batch. `arrivals`: the step at which each enters; the first step by default."""
    runner = ModelRunner(checkpoint, len(requests), FeatureCache(1 << 20))
    return run_sequences(runner, create_sequences(checkpoint, requests), arrivals or [0] * len(requests))
