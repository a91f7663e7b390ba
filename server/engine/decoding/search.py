"""Greedy search and beam search for one request.

A search receives candidates, never logits: `token_selection` finds the best continuations of many requests at once on
the device, and each search picks from its own few. The rules are those of transformers' `generate` for a single request
(generation/utils.py, `_sample` without sampling and `_beam_search`), in fp32, so that the tokens are equal.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from server.engine.checkpoints.generation_config import GenerationConfig

_NEVER = -1e9  # the score that transformers gives to a beam that does not exist yet


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could come next.

    `parent`: the beam that it continues.
    `score`: what the search ranks by.
    `logprob`: log probability of the token under the model.
    `certainty`: log probability of this meaning, see `token_selection.compute_certainties`.
    """

    parent: int
    token: int
    score: float
    logprob: float
    certainty: float


class GeneratedToken(NamedTuple):
    """A token of an answer, with its log probability and certainty."""

    token: int
    logprob: float
    certainty: float


class BeamNode(NamedTuple):
    """A token and all tokens before it. Beams share their past, so a step costs the same at any length."""

    past: "BeamNode | None"
    generated: GeneratedToken


def unroll_path(node: BeamNode | None) -> list[GeneratedToken]:
    """Returns the tokens from the first one to `node`."""
    path = []
    while node is not None:
        path.append(node.generated)
        node = node.past
    return path[::-1]


class Search(ABC):
    """The state of one answer.

    `width`: number of beams, each a row of the batch.
    `candidate_count`: number of candidates needed at each step.
    `scores`: sum of log probabilities of each beam, in fp32.
    `last_tokens`: last token of each beam.
    `length`: number of steps so far.
    `done`: whether the answer is complete.
    `settled`: the tokens that no later step can change; once done, the whole answer including the end token.
    """

    def __init__(self, config: GenerationConfig, width: int, candidate_count: int, max_new_tokens: int) -> None:
        self.config, self.width, self.candidate_count = config, width, candidate_count
        self.max_new_tokens = max_new_tokens
        self.scores = [0.0] + [_NEVER] * (width - 1)
        self.last_tokens = [config.decoder_start_token_id] * width
        self.length = 0
        self.done = False
        self.settled: list[GeneratedToken] = []

    @property
    def forced_token(self) -> int | None:
        """The token that the next step must take, if the generation config forces one."""
        if self.length == self.max_new_tokens - 1 and self.config.forced_eos_token_id is not None:
            return self.config.forced_eos_token_id
        return self.config.forced_bos_token_id if self.length == 0 else None

    @abstractmethod
    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        """Takes one step. `candidates` are sorted, best first. Returns the parent of each beam."""

    def is_end(self, token: int) -> bool:
        """Returns whether `token`, at the current length, ends an answer."""
        return token == self.config.eos_token_id or self.length >= self.max_new_tokens


class GreedySearch(Search):
    """Takes the most likely token at each step. Each token is final at once and can be streamed."""

    def __init__(self, config: GenerationConfig, max_new_tokens: int) -> None:
        super().__init__(config, 1, 1, max_new_tokens)

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        best = candidates[0]
        self.length += 1
        self.settled.append(GeneratedToken(best.token, best.logprob, best.certainty))
        self.last_tokens = [best.token]
        self.done = self.is_end(best.token)
        return [0]


class BeamSearch(Search):
    """Beam search with `num_beams` beams."""

    def __init__(self, config: GenerationConfig, num_beams: int, max_new_tokens: int) -> None:
        # Each beam has at most one candidate that ends it: with twice as many candidates, enough others remain.
        super().__init__(config, num_beams, 2 * num_beams, max_new_tokens)
        self._running: list[BeamNode | None] = [None] * num_beams
        self._finished: list[tuple[np.float32, BeamNode]] = []  # best first, at most num_beams

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        self.length += 1
        nodes = [BeamNode(self._running[c.parent], GeneratedToken(c.token, c.logprob, c.certainty)) for c in candidates]
        ends = [self.is_end(c.token) for c in candidates]
        # Candidates past the first num_beams only replace beams that end; they cannot end an answer themselves.
        ended = [
            (self._normalize(c.score, self.length), node)
            for c, node, end in zip(candidates[: self.width], nodes, ends, strict=False)
            if end
        ]
        self._finished = sorted([*self._finished, *ended], key=lambda f: f[0], reverse=True)[: self.width]

        # Added rather than filtered: when too few candidates continue, transformers keeps ended ones with this score.
        running = [
            np.float32(c.score) + np.float32(_NEVER if end else 0) for c, end in zip(candidates, ends, strict=True)
        ]
        order = sorted(range(len(candidates)), key=running.__getitem__, reverse=True)[: self.width]
        self.scores = [float(running[i]) for i in order]
        self.last_tokens = [candidates[i].token for i in order]
        self._running = [nodes[i] for i in order]
        if self._is_complete():
            self.done = True
            self.settled = unroll_path(self._finished[0][1])
        return [candidates[i].parent for i in order]

    def _normalize(self, score: float, length: int) -> np.float32:
        return np.float32(np.float32(score) / np.float32(length**self.config.length_penalty))

    def _is_complete(self) -> bool:
        if self.length >= self.max_new_tokens:
            return True
        if len(self._finished) < self.width:
            return False
        # The best score a running beam can still reach: "never" assumes the maximum length, the heuristic this one.
        optimistic = self.config.early_stopping == "never" and self.config.length_penalty > 0
        best = self._normalize(self.scores[0], self.max_new_tokens if optimistic else self.length)
        return self.config.early_stopping is True or not best > self._finished[-1][0]


def create_search(config: GenerationConfig, num_beams: int, max_new_tokens: int) -> Search:
    """Returns a greedy search for one beam, otherwise a beam search."""
    if num_beams == 1:
        return GreedySearch(config, max_new_tokens)
    return BeamSearch(config, num_beams, max_new_tokens)
