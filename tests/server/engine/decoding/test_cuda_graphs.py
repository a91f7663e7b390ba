"""Steps filled up to buckets say what steps as they are say. On a GPU they are graphs too; here they only fill up."""

import random

import pytest

from server.engine.checkpoint import Checkpoint
from server.engine.decoding.cuda_graphs import Graphs, bucket
from server.engine.features import FeatureCache
from server.engine.runner import Runner
from tests.server.engine.batches import decode, questions, run, sequences_of


@pytest.mark.parametrize("seed", range(3))
def test_filled_up_steps_say_the_same(tiny: Checkpoint, seed: int) -> None:
    """Greedy, drafted and with beams, entering and leaving at any step."""
    draw = random.Random(seed)
    asked = [q for beams in (1, 3) for q in questions(beams)]
    arrivals = [draw.randrange(30) for _ in asked]
    runner = Runner(tiny, len(asked), FeatureCache(1 << 20))
    graphs = runner.decoder.graphs = Graphs(tiny.model)
    results = run(runner, sequences_of(tiny, asked, drafts=2 * (seed % 2)), arrivals)
    for filled, plain in zip(results, decode(tiny, asked, arrivals), strict=True):
        assert filled.tokens == plain.tokens
        assert filled.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
    counts = {key[2] for key in graphs._steps}
    assert len(counts) > 2
    assert all(count & (count - 1) == 0 or count == len(asked) for count in counts)


def test_bucket() -> None:
    assert [bucket(n, 1, 12) for n in (1, 2, 3, 5, 8, 9, 12)] == [1, 2, 4, 8, 8, 12, 12]
    assert [bucket(n, 64, 1000) for n in (1, 64, 65, 300, 900)] == [64, 64, 128, 512, 1000]
