"""Masks of allowed tokens. All constraints of a checkpoint share them, since they depend only on its vocabulary."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from prompts.vocabulary import Vocabulary

CACHED_MASKS = 256  # of one byte per token; least recently used are evicted: 13 MB at 51,328 tokens


class AllowedTokens(NamedTuple):
    """The allowed tokens: these ids, locations from bin `min_bin` on, and any text tokens."""

    tokens: tuple[int, ...] = ()
    min_bin: int | None = None
    text: bool = False


class TokenMasks:
    """Builds and caches masks for one vocabulary. Thread safe."""

    def __init__(self, vocabulary: Vocabulary, size: int) -> None:
        """`size`: V, the number of rows of lm_head."""
        self.vocabulary, self.size = vocabulary, size
        tokens = [vocabulary[i] for i in range(size)]
        self._is_text = torch.tensor([bool(token.text_bytes) for token in tokens])
        self._bins = torch.tensor([-1 if token.location is None else token.location for token in tokens])
        self.get_mask = lru_cache(CACHED_MASKS)(self._build_mask)
        """Returns [V] bool on the CPU for AllowedTokens. It is cached and shared: do not write to it."""

    def _build_mask(self, allowed: AllowedTokens) -> Tensor:
        mask = self._is_text.clone() if allowed.text else torch.zeros_like(self._is_text)
        if allowed.min_bin is not None:
            mask |= self._bins >= allowed.min_bin
        mask[list(allowed.tokens)] = True
        return mask
