"""Prompt lookup changes how many steps an answer takes, and nothing else."""

import random
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import replace

import pytest

from prompts.tasks import TASKS
from server.engine import decoder
from server.engine.checkpoint import Checkpoint
from server.engine.constraint import Constrain, automaton
from server.engine.drafts import draft
from server.engine.features import FeatureCache
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.engine.runner import Runner
from server.engine.sequence import Sequence, plan
from tests.server.engine import reference
from tests.server.engine.batches import questions, run, sequences_of
from tests.server.engine.tiny import picture

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
TEXTS = (
    "the ring",
    "a a a a b a a a a a a a",  # every guess has many places
    "the bin, the bin, the bin and the bin",
    "the theatre then there",
    "q" * 59,  # as many as the tiny model reads
)
LIMITS = (96, 1, 2, 9, 40, 95)  # 96: the last position that the tiny model has


def grounded() -> list[Request]:
    return [
        replace(reference.request(GROUNDING, picture(i % 3), beams=1, limit=LIMITS[i % 6]), text=TEXTS[i % 5])
        for i in range(11)
    ]


def test_a_draft_is_what_follows_in_the_prompt() -> None:
    prompt = [0, 7, 8, 5, 7, 9, 6, 2]  # <s> … </s>
    assert draft(prompt, [0, 7, 8], 3) == [5, 7, 9]  # after the newest two
    assert draft(prompt, [1, 7], 3) == [9, 6]  # after the newest one, where it stands last; </s> is no guess
    assert draft(prompt, [3], 3) == []
    assert draft(prompt, [], 3) == []
    assert draft(prompt, [9, 6], 3) == []


@pytest.mark.parametrize("drafts", [1, 4])
def test_tokens_equal_generate(checkpoint: Checkpoint, drafts: int) -> None:
    asked = [
        reference.request(GROUNDING, picture(i), beams=1, limit=limit) for i, limit in enumerate((40, 1, 9, 2, 17))
    ]
    asked += questions(1)[:2]
    arrivals = [i % 3 for i in range(len(asked))]
    runner = Runner(checkpoint, len(asked), FeatureCache(1 << 20))
    for request, result in zip(
        asked, run(runner, sequences_of(checkpoint, asked, drafts=drafts), arrivals), strict=True
    ):
        assert result.tokens == reference.generate(checkpoint, request)


def _answers(checkpoint: Checkpoint, asked: Many[Request], drafts: int) -> tuple[list[Result], int]:
    """Each request in one batch, some entering later; and the steps that took."""
    sequences = []
    for request in asked:
        guide = request.constrain and automaton(
            request.task, request.constrain, checkpoint.tokenizer, checkpoint.vocabulary, len(checkpoint.unused)
        )
        sequences.append(
            Sequence(plan(request, checkpoint), checkpoint, Handle(lambda _: None), automaton=guide, drafts=drafts)
        )
    runner = Runner(checkpoint, len(asked), FeatureCache(1 << 20))
    return run(runner, sequences, [i % 4 for i in range(len(asked))]), runner.decoder.steps


def assert_same(drafted: Many[Result], undrafted: Many[Result]) -> None:
    for one, other in zip(drafted, undrafted, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert (one.text, one.finish, len(one.annotations)) == (other.text, other.finish, len(other.annotations))


def prophet(answers: Many[Result], seed: int, lies: float) -> Callable[..., list[int]]:
    """Guesses what will be said, but for some tokens of it; past the end of an answer, anything."""
    known, draw = [result.tokens for result in answers], random.Random(seed)

    def guess(prompt: Many[int], said: Many[int], count: int) -> list[int]:
        whole = next(tokens for tokens in known if tokens[: len(said)] == list(said))
        coming = [*whole[len(said) :], *(draw.randrange(300) for _ in range(count))]
        told = [draw.randrange(300) if draw.random() < lies else token for token in coming]
        return told[: draw.randint(0, count)] if lies else told[:count]

    return guess


@pytest.mark.parametrize("ngram", [0, 3])
@pytest.mark.parametrize("constrain", [None, Constrain(), Constrain(labels=("ring", "bin", "the ring"))], ids=str)
def test_whatever_is_guessed(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, ngram: int, constrain: Constrain | None
) -> None:
    """Right, wrong, or right to some point; up to the last position, beside beams and tasks without drafts."""
    checkpoint = replace(tiny, generation=replace(tiny.generation, no_repeat_ngram_size=ngram))
    asked = [replace(request, constrain=constrain) for request in grounded()] + questions(3)[:3] + questions(1)[:3]
    expected, steps = _answers(checkpoint, asked, 0)
    assert max(len(result.tokens) for result in expected) > 40
    for seed, lies in enumerate((0.0, 0.2, 0.6, 1.0)):
        monkeypatch.setattr(decoder, "draft", prophet(expected, seed, lies))
        found, fewer = _answers(checkpoint, asked, 5)
        assert_same(found, expected)
        assert lies or fewer < steps  # who knows what comes needs fewer


@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_adversarial_prompts(tiny: Checkpoint, drafts: int) -> None:
    assert_same(_answers(tiny, grounded(), drafts)[0], _answers(tiny, grounded(), 0)[0])


@pytest.mark.slow
@pytest.mark.parametrize("drafts", [1, 3, 8])
def test_adversarial_prompts_of_every_checkpoint(checkpoint: Checkpoint, drafts: int) -> None:
    asked = [replace(request, max_new_tokens=checkpoint.max_new_tokens) for request in grounded()[:5]]
    assert_same(_answers(checkpoint, asked, drafts)[0], _answers(checkpoint, asked, 0)[0])


def test_only_grounding_is_drafted(tiny: Checkpoint) -> None:
    for token in TASKS:
        for beams in (1, 3):
            (sequence,) = sequences_of(tiny, [reference.request(token, picture(), beams=beams, limit=4)], drafts=4)
            assert sequence.member.drafts == (4 if token == GROUNDING and beams == 1 else 0)
