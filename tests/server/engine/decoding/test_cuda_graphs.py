"""Steps padded to buckets generate the same tokens. On a GPU they are captured as graphs; here they are only padded."""

import random

import pytest

from server.engine.checkpoints.loading import Checkpoint
from server.engine.decoding.cuda_graphs import CudaGraphs, round_up_to_bucket
from server.engine.model.feature_cache import FeatureCache
from server.engine.runner import ModelRunner
from tests.server.engine.batches import create_requests, create_sequences, decode_batch, run_sequences


@pytest.mark.parametrize("seed", range(3))
def test_padded_steps_generate_the_same_tokens(tiny: Checkpoint, seed: int) -> None:
    """Greedy and with beams, with requests that enter and leave at any step."""
    rng = random.Random(seed)
    requests = [request for beams in (1, 3) for request in create_requests(beams)]
    arrivals = [rng.randrange(30) for _ in requests]
    runner = ModelRunner(tiny, len(requests), FeatureCache(1 << 20))
    graphs = runner.decoder.graphs = CudaGraphs(tiny.model)
    results = run_sequences(runner, create_sequences(tiny, requests), arrivals)
    for padded, plain in zip(results, decode_batch(tiny, requests, arrivals), strict=True):
        assert padded.tokens == plain.tokens
        assert padded.logprobs == pytest.approx(plain.logprobs, abs=1e-4)
    counts = {key[2] for key in graphs.steps}
    assert len(counts) > 2
    assert all(count & (count - 1) == 0 or count == len(requests) for count in counts)


def test_round_up_to_bucket() -> None:
    assert [round_up_to_bucket(n, 1, 12) for n in (1, 2, 3, 5, 8, 9, 12)] == [1, 2, 4, 8, 8, 12, 12]
    assert [round_up_to_bucket(n, 64, 1000) for n in (1, 64, 65, 300, 900)] == [64, 64, 128, 512, 1000]
