"""What the engine promises about answers in different batches: they are equal but for ties.

On a CPU, the rounding of an fp32 matrix product depends on the number of its rows, since libraries choose another
kernel. It moves the logits of the seedling by up to 3e-5 (`python -m benchmarks.batch_rounding`). Two tokens whose
scores differ by less than TIE may therefore take each other's place when other prompts share the batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from server.engine.decoding.search import Candidate, Search
from server.engine.decoding.token_selection import TokenSelector

TIE = 1e-4


class SmallestMargin:
    """The smallest difference between a token or beam that was taken and the next best one."""

    def __init__(self) -> None:
        self.value = float("inf")

    @property
    def is_tie(self) -> bool:
        """Whether another batch may give another answer."""
        return self.value < TIE

    def record(self, search: Search, candidates: Sequence[Candidate], logits: Tensor) -> None:
        """Records one step. `logits` [w, V]."""
        if search.forced_token is not None or not candidates:
            return
        if search.width == 1:
            # What has a larger logit than the chosen token is forbidden.
            chosen = logits[0, candidates[0].token]
            others = logits[0].masked_fill(logits[0] > chosen, -torch.inf)
            others[candidates[0].token] = -torch.inf
            margins = [float(chosen - others.max())]
        else:
            scores = [candidate.score for candidate in candidates if candidate.score > -1e8]
            margins = [one - other for one, other in pairwise(scores)]
        self.value = min([self.value, *margins])


@contextmanager
def record_margins() -> Iterator[SmallestMargin]:
    """Records the margins of all prompts that the engines of this process answer meanwhile."""
    found, select = SmallestMargin(), TokenSelector.select

    def select_and_record(self: TokenSelector, searches: Sequence[Search], logits: Tensor, *rest: Any) -> Any:
        candidates = select(self, searches, logits, *rest)
        for i, (search, own) in enumerate(zip(searches, candidates, strict=True)):
            found.record(search, own, logits[i * search.width : (i + 1) * search.width].clone())
        return candidates

    TokenSelector.select = select_and_record  # type: ignore[method-assign]
    try:
        yield found
    finally:
        TokenSelector.select = select  # type: ignore[method-assign]
