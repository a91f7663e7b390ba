"""The search for one answer: what it keeps from step to step, and which of the offered tokens it takes.

A search sees candidates, never logits: the decoder finds the best continuations of many requests at once on the device,
and each request's search takes its own few from there. The rules are those of transformers' `generate` for a request
alone (generation/utils.py, `_sample` without sampling and `_beam_search`), in fp32, so that the tokens are the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from server.engine.generation import GenerationConfig

_NEVER = -1e9  # transformers' score of a beam that does not exist yet


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token that could come next.

    `parent`: the beam it continues; `score`: what the search ranks by; `logprob`: the model's own of the token;
    `certainty`: that of meaning this or nearly this (`Batch.certainties`).
    """

    parent: int
    token: int
    score: float
    logprob: float
    certainty: float


class Said(NamedTuple):
    """A token of an answer, with the model's own log probability and certainty of it."""

    token: int
    logprob: float
    certainty: float


class Node(NamedTuple):
    """A token and all before it. Beams share their past, so a step costs the same at any length."""

    past: "Node | None"
    said: Said


def unroll(node: Node | None) -> list[Said]:
    """What was said from the first token to `node`."""
    said = []
    while node is not None:
        said.append(node.said)
        node = node.past
    return said[::-1]


class Search(ABC):
    """The state of one answer. `width` rows of the batch are its own, `offered` candidates it wants each step.

    `scores`: fp32 sums of log probabilities of the running rows; `tokens`: the last token of each; `length`: steps
    so far; `done`: no more steps; `settled`: the answer's tokens that no later step can change, and at the end all of
    them, the end token included.
    """

    def __init__(self, config: GenerationConfig, width: int, offered: int, max_new_tokens: int) -> None:
        self.config, self.width, self.offered, self.max_new_tokens = config, width, offered, max_new_tokens
        self.scores = [0.0] + [_NEVER] * (width - 1)
        self.tokens = [config.decoder_start_token_id] * width
        self.length = 0
        self.done = False
        self.settled: list[Said] = []

    def forced(self) -> int | None:
        """The token that the coming step must take whatever the model says."""
        if self.length == self.max_new_tokens - 1 and self.config.forced_eos_token_id is not None:
            return self.config.forced_eos_token_id
        return self.config.forced_bos_token_id if self.length == 0 else None

    @abstractmethod
    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        """Takes the step. `candidates` come best first; returns which row each running row continues."""

    def ends(self, token: int) -> bool:
        """Whether an answer ends with `token` at the current length."""
        return token == self.config.eos_token_id or self.length >= self.max_new_tokens


class Greedy(Search):
    """The likeliest token at each step. What it has said stands, so it can be shown at once."""

    def __init__(self, config: GenerationConfig, max_new_tokens: int) -> None:
        super().__init__(config, 1, 1, max_new_tokens)

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        best = candidates[0]
        self.length += 1
        self.settled.append(Said(best.token, best.logprob, best.certainty))
        self.tokens = [best.token]
        self.done = self.ends(best.token)
        return [0]


class Beams(Search):
    """Beam search over `num_beams` rows."""

    def __init__(self, config: GenerationConfig, num_beams: int, max_new_tokens: int) -> None:
        # Each beam can end at most once a step: twice as many candidates leave enough that go on.
        super().__init__(config, num_beams, 2 * num_beams, max_new_tokens)
        self._running: list[Node | None] = [None] * num_beams
        self._finished: list[tuple[np.float32, Node]] = []  # best first, at most num_beams

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        self.length += 1
        nodes = [Node(self._running[c.parent], Said(c.token, c.logprob, c.certainty)) for c in candidates]
        ends = [self.ends(c.token) for c in candidates]
        # The candidates past num_beams are a reserve to go on with; they may not end an answer.
        ended = [
            (self._normalised(c.score, self.length), node)
            for c, node, end in zip(candidates[: self.width], nodes, ends, strict=False)
            if end
        ]
        self._finished = sorted([*self._finished, *ended], key=lambda f: f[0], reverse=True)[: self.width]

        # A sum rather than a filter: with too few that go on, transformers keeps those that ended, far below.
        running = [
            np.float32(c.score) + np.float32(_NEVER if end else 0) for c, end in zip(candidates, ends, strict=True)
        ]
        order = sorted(range(len(candidates)), key=running.__getitem__, reverse=True)[: self.width]
        self.scores = [float(running[i]) for i in order]
        self.tokens = [candidates[i].token for i in order]
        self._running = [nodes[i] for i in order]
        if self._is_over():
            self.done = True
            self.settled = unroll(self._finished[0][1])
        return [candidates[i].parent for i in order]

    def _normalised(self, score: float, length: int) -> np.float32:
        return np.float32(np.float32(score) / np.float32(length**self.config.length_penalty))

    def _is_over(self) -> bool:
        if self.length >= self.max_new_tokens:
            return True
        if len(self._finished) < self.width:
            return False
        # What a running beam may still reach: "never" counts on the greatest length, the heuristic on this one.
        hopeful = self.config.early_stopping == "never" and self.config.length_penalty > 0
        best = self._normalised(self.scores[0], self.max_new_tokens if hopeful else self.length)
        return self.config.early_stopping is True or not best > self._finished[-1][0]


def search(config: GenerationConfig, num_beams: int, max_new_tokens: int) -> Search:
    """The search that `num_beams` asks for."""
    return Greedy(config, max_new_tokens) if num_beams == 1 else Beams(config, num_beams, max_new_tokens)
