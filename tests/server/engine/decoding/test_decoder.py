"""The rules of decoding, each as transformers' `generate` has it, in batches that requests leave."""

from collections.abc import Sequence as Many
from dataclasses import replace

import pytest
import torch
from transformers.generation.logits_process import NoRepeatNGramLogitsProcessor

from server.engine.checkpoint import Checkpoint
from server.engine.decoding.token_selection import NEAR, certainties, forbid_repeats
from server.engine.features import FeatureCache
from server.engine.request import Request, Result
from server.engine.runner import Runner
from tests.server.engine import reference
from tests.server.engine.batches import decode, questions, sequences_of
from tests.server.engine.tiny import picture


def assert_equal(checkpoint: Checkpoint, requests: Many[Request]) -> list[Result]:
    results = decode(checkpoint, requests)
    for asked, result in zip(requests, results, strict=True):
        assert result.tokens == reference.generate(checkpoint, asked), (asked.task.token, asked.num_beams)
    return results


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize(("beams", "length_penalty"), [(2, 1.0), (3, 2.0), (3, 0.0), (4, -1.0)])
def test_every_kind_of_stopping(
    tiny: Checkpoint, early_stopping: bool | str, beams: int, length_penalty: float
) -> None:
    settings = replace(tiny.generation, early_stopping=early_stopping, length_penalty=length_penalty)
    assert_equal(replace(tiny, generation=settings), questions(beams)[:8])


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
def test_each_rule_off_or_other(tiny: Checkpoint, settings: dict[str, int | None], beams: int) -> None:
    assert_equal(replace(tiny, generation=replace(tiny.generation, **settings)), questions(beams)[:6])


def test_certainty_is_the_probability_of_nearly_the_same_place() -> None:
    generator = torch.Generator().manual_seed(5)
    logprobs = torch.randn(3, 1100, generator=generator).mul(3).log_softmax(-1)
    locations = range(50, 1050)
    tokens = torch.tensor([[50], [600], [1049]])  # the first bin, one in the middle, the last
    found = certainties(logprobs, torch.arange(3)[:, None], tokens, locations)
    for row, (token,) in enumerate(tokens.tolist()):
        near = [i for i in range(token - NEAR, token + NEAR + 1) if i in locations]
        assert found[row, 0].exp() == pytest.approx(float(logprobs[row, near].exp().sum()), abs=1e-6)
    letters = torch.tensor([[0], [49], [1050]])  # neighbours of a letter mean something else
    found = certainties(logprobs, torch.arange(3)[:, None], letters, locations)
    assert torch.equal(found, logprobs.gather(1, letters))


def test_the_tests_would_notice(tiny: Checkpoint) -> None:
    """Lengths differ, the picture matters and the n-gram ban bites: without these, equality would mean little."""
    results = decode(tiny, questions(1))
    assert len({len(r.tokens) for r in results}) > 5
    assert {"stop", "length"} == {r.finish for r in results}
    one, other = (decode(tiny, [reference.request("<OD>", picture(i), beams=1, limit=20)])[0] for i in (0, 1))
    assert one.tokens != other.tokens
    free = replace(tiny, generation=replace(tiny.generation, no_repeat_ngram_size=0))
    assert [r.tokens for r in decode(free, questions(1))] != [r.tokens for r in results]


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_that_leave_change_nothing_for_the_rest(tiny: Checkpoint, beams: int) -> None:
    asked = [q for q in questions(beams) if (q.max_new_tokens or 0) > 8]
    whole = [r.tokens for r in decode(tiny, asked)]
    for leave_at in (0, 1, 4):
        runner, sequences = Runner(tiny, len(asked), FeatureCache(0)), sequences_of(tiny, asked)
        runner.enter(sequences)
        for step in range(100):
            if step == leave_at:
                for sequence in sequences[::2]:
                    runner.leave(sequence)
            for sequence in sequences:
                if sequence.search.done:
                    runner.leave(sequence)
            if not len(runner.decoder):
                break
            runner.step()
        for i, sequence in enumerate(sequences):
            if i % 2:
                assert [said.token for said in sequence.search.settled] == whole[i]


def test_ids_that_stand_for_nothing_never_come_out(tiny: Checkpoint) -> None:
    assert int(tiny.unused.sum()) > 0
    weight = tiny.model.text.table
    before = weight.clone()
    try:
        weight[tiny.unused] *= 40  # what a padded row would have to hold to be the likeliest
        for result in decode(tiny, questions(1)) + decode(tiny, questions(3)):
            assert not any(tiny.unused[token] for token in result.tokens)
    finally:
        weight.copy_(before)


def test_forbid_repeats_equals_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3):
        rows = torch.randint(0, 4, (5, 12), generator=generator)
        scores = torch.randn(5, 6, generator=generator)
        lengths = torch.tensor([12, 9, 1, 2, 5])
        padded = rows.masked_fill(torch.arange(12) >= lengths[:, None], -1)
        got = forbid_repeats(scores, padded, lengths, size)
        for row in range(5):
            alone = NoRepeatNGramLogitsProcessor(size)(rows[row : row + 1, : lengths[row]], scores[row : row + 1])
            assert torch.equal(got[row], alone[0]), (size, row)
