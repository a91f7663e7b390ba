"""Greedy and beam search on candidates written by hand."""

from dataclasses import replace

import numpy as np
import pytest

from server.engine.checkpoints.generation_config import GenerationConfig
from server.engine.decoding.search import BeamSearch, Candidate, GreedySearch, create_search

EOS = 2
CONFIG = GenerationConfig(forced_bos_token_id=0, forced_eos_token_id=EOS)


def create_candidates(*candidates: tuple[int, int, float]) -> list[Candidate]:
    return [Candidate(parent, token, score, score, score) for parent, token, score in candidates]


def test_one_beam_is_greedy_search() -> None:
    assert isinstance(create_search(CONFIG, 1, 5), GreedySearch)
    assert isinstance(create_search(CONFIG, 2, 5), BeamSearch)


def test_forced_tokens() -> None:
    greedy = GreedySearch(CONFIG, 3)
    forced = []
    while not greedy.done:
        forced.append(greedy.forced_token)
        greedy.advance(create_candidates((0, 7, 0.0)))
    assert forced == [0, None, EOS]
    assert (
        GreedySearch(CONFIG, 1).forced_token == EOS
    )  # the first token is also the last: the forced end token takes precedence


def test_greedy_search_settles_each_token() -> None:
    greedy = GreedySearch(CONFIG, 9)
    greedy.advance(create_candidates((0, 5, -0.5)))
    assert greedy.settled == [(5, -0.5, -0.5)]
    greedy.advance(create_candidates((0, EOS, -0.1)))
    assert greedy.done
    assert greedy.settled == [(5, -0.5, -0.5), (EOS, -0.1, -0.1)]


def test_beams_follow_their_parents() -> None:
    beams = BeamSearch(replace(CONFIG, early_stopping=True), 2, 9)
    assert beams.scores == [0.0, -1e9]
    assert beams.advance(create_candidates((0, 5, -1.0), (0, 6, -2.0), (0, 7, -3.0), (0, 8, -4.0))) == [0, 0]
    assert beams.last_tokens == [5, 6]
    assert beams.advance(create_candidates((1, 9, -2.1), (0, 9, -2.2), (0, 4, -3.0), (1, 4, -5.0))) == [1, 0]
    assert beams.settled == []
    beams.advance(create_candidates((0, EOS, -2.5), (1, EOS, -2.6), (0, 3, -9.0), (1, 3, -9.0)))
    assert beams.done
    assert [generated.token for generated in beams.settled] == [6, 9, EOS]  # its first token was the second best


def test_candidates_past_num_beams_cannot_end_an_answer() -> None:
    beams = BeamSearch(replace(CONFIG, early_stopping=True), 2, 9)
    beams.advance(create_candidates((0, 5, -1.0), (0, 6, -2.0), (0, EOS, -3.0), (0, 8, -4.0)))
    assert beams.last_tokens == [5, 6]
    beams.advance(create_candidates((0, 5, -1.0), (0, EOS, -2.0), (0, 7, -3.0), (0, 8, -4.0)))
    assert beams.last_tokens == [5, 7]
    assert not beams.done


@pytest.mark.parametrize(("early_stopping", "steps"), [(True, 2), (False, 3), ("never", 10)])
def test_early_stopping(early_stopping: bool | str, steps: int) -> None:
    """Two answers end in two steps, the worse at -4 per token; a beam at -3.95 continues and drops by 20 per step."""
    beams = BeamSearch(GenerationConfig(early_stopping=early_stopping), 2, 40)  # type: ignore[arg-type]
    beams.advance(create_candidates((0, EOS, -1.0), (0, 5, -1.5), (0, 6, -3.0), (0, 8, -4.0)))
    beams.advance(create_candidates((0, 5, -7.9), (0, EOS, -8.0), (1, 6, -9.0), (1, 8, -9.0)))
    while not beams.done:
        score = -7.9 - 20.0 * (beams.length - 1)
        beams.advance(create_candidates((0, 5, score), (0, 6, score), (1, 6, score), (1, 8, score)))
    assert beams.length == steps


def test_length_penalty_prefers_long_or_short_answers() -> None:
    for penalty, best in ((2.0, 3), (-2.0, 1)):
        beams = BeamSearch(GenerationConfig(early_stopping="never", length_penalty=penalty), 2, 3)
        beams.advance(create_candidates((0, EOS, -2.0), (0, 5, -2.0), (0, 6, -3.0), (0, 8, -4.0)))
        while not beams.done:
            beams.advance(create_candidates((0, 5, -2.0), (0, 6, -2.1), (1, 6, -5.0), (1, 8, -6.0)))
        assert len(beams.settled) == best


def test_running_beams_become_answers_at_the_limit() -> None:
    beams = BeamSearch(GenerationConfig(), 2, 2)
    beams.advance(create_candidates((0, 5, -1.0), (0, 6, -2.0), (0, 7, -3.0), (0, 8, -4.0)))
    beams.advance(create_candidates((0, 5, -1.1), (0, 6, -2.0), (1, 7, -3.0), (1, 8, -4.0)))
    assert beams.done
    assert [generated.token for generated in beams.settled] == [5, 5]


def test_long_answer_is_unrolled() -> None:
    """Recursion would fail at 4096 tokens."""
    beams = BeamSearch(GenerationConfig(), 2, 4096)
    rng = np.random.default_rng(0)
    while not beams.done:
        parents = rng.integers(0, 2, 4)
        beams.advance(create_candidates(*((int(p), 5 + i, -float(beams.length + i)) for i, p in enumerate(parents))))
    assert len(beams.settled) == 4096
    del beams
