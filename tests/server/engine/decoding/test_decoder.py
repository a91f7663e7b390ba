"""Generation settings and token selection, compared with transformers, in batches that requests leave."""

from collections.abc import Sequence as Many
from dataclasses import replace

import pytest

from server.engine.checkpoints.loading import Checkpoint
from server.engine.model.feature_cache import FeatureCache
from server.engine.request import Request, Result
from server.engine.runner import ModelRunner
from tests.server.engine import reference
from tests.server.engine.batches import create_requests, create_sequences, decode_batch
from tests.server.engine.tiny import create_image


def assert_equals_transformers(checkpoint: Checkpoint, requests: Many[Request]) -> list[Result]:
    results = decode_batch(checkpoint, requests)
    for request, result in zip(requests, results, strict=True):
        assert result.tokens == reference.generate(checkpoint, request), (request.task.token, request.num_beams)
    return results


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize(("beams", "length_penalty"), [(2, 1.0), (3, 2.0), (3, 0.0), (4, -1.0)])
def test_early_stopping_and_length_penalty(
    tiny: Checkpoint, early_stopping: bool | str, beams: int, length_penalty: float
) -> None:
    settings = replace(tiny.generation, early_stopping=early_stopping, length_penalty=length_penalty)
    assert_equals_transformers(replace(tiny, generation=settings), create_requests(beams)[:8])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"forced_bos_token_id": None},
        {"forced_eos_token_id": None},
        {"forced_bos_token_id": None, "forced_eos_token_id": None, "no_repeat_ngram_size": 0},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
    ],
    ids=str,
)
def test_generation_settings(tiny: Checkpoint, settings: dict[str, int | None], beams: int) -> None:
    assert_equals_transformers(
        replace(tiny, generation=replace(tiny.generation, **settings)), create_requests(beams)[:6]
    )


def test_answers_are_diverse(tiny: Checkpoint) -> None:
    """Lengths differ, and the image and the n-gram ban matter: otherwise equality would prove little."""
    results = decode_batch(tiny, create_requests(1))
    assert len({len(r.tokens) for r in results}) > 5
    assert {"stop", "length"} == {r.finish for r in results}
    one, other = (
        decode_batch(tiny, [reference.create_request("<OD>", create_image(i), beams=1, limit=20)])[0] for i in (0, 1)
    )
    assert one.tokens != other.tokens
    free = replace(tiny, generation=replace(tiny.generation, no_repeat_ngram_size=0))
    assert [r.tokens for r in decode_batch(free, create_requests(1))] != [r.tokens for r in results]


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_that_leave_do_not_affect_the_others(tiny: Checkpoint, beams: int) -> None:
    requests = [q for q in create_requests(beams) if (q.max_new_tokens or 0) > 8]
    expected = [r.tokens for r in decode_batch(tiny, requests)]
    for leave_at in (0, 1, 4):
        runner, sequences = ModelRunner(tiny, len(requests), FeatureCache(0)), create_sequences(tiny, requests)
        runner.add(sequences)
        for step in range(100):
            if step == leave_at:
                for sequence in sequences[::2]:
                    runner.remove(sequence)
            for sequence in sequences:
                if sequence.search.done:
                    runner.remove(sequence)
            if not len(runner.decoder):
                break
            runner.step()
        for i, sequence in enumerate(sequences):
            if i % 2:
                assert [generated.token for generated in sequence.search.settled] == expected[i]


def test_unused_ids_are_never_generated(tiny: Checkpoint) -> None:
    assert int(tiny.unused_tokens.sum()) > 0
    weight = tiny.model.language_model.token_embedding
    before = weight.clone()
    try:
        weight[tiny.unused_tokens] *= 40  # so that a padded row would be the most likely
        for result in decode_batch(tiny, create_requests(1)) + decode_batch(tiny, create_requests(3)):
            assert not any(tiny.unused_tokens[token] for token in result.tokens)
    finally:
        weight.copy_(before)
