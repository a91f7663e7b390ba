"""Static KV cache: each running request has one slot.

A request keeps its slot from prefill to its last token. The slot holds the keys and values of the encoder states, which
all beams of the request share, and those of every token that the beams generated. Reordering beams copies nothing:
`beam_ancestry` records which beam generated the token at each position of a beam's past, and an attention mask built
from it hides the tokens of all other beams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BartConfig


@dataclass(frozen=True, slots=True)
class CacheView:
    """`count` adjacent slots that go through the decoder together, with `queries` rows each.

    `slot_index` [count, 1]: 0, 1, …, count - 1.
    `positions`, `columns` [count, queries]: position of each row, and the column where its keys and values are written.
    `key_count`: number of columns to attend to.
    `cross_length`: number of encoder states to attend to.
    `self_mask` [count, 1, queries, key_count], `cross_mask` [count, 1, 1, cross_length]: added to the attention scores;
    None hides nothing.
    """

    cache: "KVCache"
    first: int
    count: int
    queries: int
    slot_index: Tensor
    positions: Tensor
    columns: Tensor
    key_count: int
    self_mask: Tensor | None
    cross_length: int
    cross_mask: Tensor | None

    @property
    def rows(self) -> int:
        return self.count * self.queries

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values of the newest tokens, [count, queries, heads, d] each.

        Returns the keys and values to attend to, [count, heads, key_count, d] each.
        """
        own = slice(self.first, self.first + self.count)
        keys, values = self.cache.k[layer][own], self.cache.v[layer][own]
        keys[self.slot_index, :, self.columns] = k.to(keys.dtype)
        values[self.slot_index, :, self.columns] = v.to(values.dtype)
        return keys[:, :, : self.key_count], values[:, :, : self.key_count]

    def write_cross(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Writes keys and values of the encoder states, [count, heads, tokens, d] each."""
        own = slice(self.first, self.first + self.count)
        self.cache.cross_k[layer][own, :, : k.shape[2]] = k
        self.cache.cross_v[layer][own, :, : v.shape[2]] = v

    def read_cross(self, layer: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values of the encoder states, [count, heads, cross_length, d] each."""
        own = slice(self.first, self.first + self.count)
        return (
            self.cache.cross_k[layer][own, :, : self.cross_length],
            self.cache.cross_v[layer][own, :, : self.cross_length],
        )


class KVCache:
    """`count` slots for requests of `width` beams. The slots in use are always the first ones.

    All memory is allocated at once. On a CPU, pages that are never written take no memory.
    """

    def __init__(self, config: BartConfig, width: int, count: int, *, device: torch.device, dtype: torch.dtype) -> None:
        self.width, self.count, self.max_positions = width, count, config.max_position_embeddings
        heads = config.decoder_attention_heads
        shape = (count, heads, self.max_positions * width, config.d_model // heads)
        cross_shape = (count, heads, self.max_positions, config.d_model // heads)
        layers = range(config.decoder_layers)
        self.k, self.v = ([torch.zeros(shape, device=device, dtype=dtype) for _ in layers] for _ in range(2))
        self.cross_k, self.cross_v = (
            [torch.zeros(cross_shape, device=device, dtype=dtype) for _ in layers] for _ in range(2)
        )
        # Per slot, beam and position: the beam that generated the token there. -1: no token yet.
        self.beam_ancestry = torch.full((count, width, self.max_positions), -1, device=device, dtype=torch.int8)
        self.cross_lengths: list[int] = []  # number of encoder states of each slot in use

    @property
    def used(self) -> int:
        """Number of slots in use."""
        return len(self.cross_lengths)

    def allocate(self, cross_lengths: Sequence[int]) -> int:
        """Allocates a slot for each number of encoder states and returns the first. The caller checks the capacity."""
        first = self.used
        self.cross_lengths += cross_lengths
        self.beam_ancestry[first : self.used] = -1
        return first

    def free(self, slot: int) -> int:
        """Frees a slot. Moves the last slot into its place and returns the index that the last slot had."""
        last = self.used - 1
        if slot != last:
            length = int((self.beam_ancestry[last] >= 0).any(0).sum()) * self.width
            cross_length = self.cross_lengths[last]
            for layer in range(len(self.k)):
                for cached in (self.k, self.v):
                    cached[layer][slot, :, :length] = cached[layer][last, :, :length]
                for cached in (self.cross_k, self.cross_v):
                    cached[layer][slot, :, :cross_length] = cached[layer][last, :, :cross_length]
            self.beam_ancestry[slot] = self.beam_ancestry[last]
            self.cross_lengths[slot] = cross_length
        self.cross_lengths.pop()
        return last

    def reorder_beams(self, slots: Tensor, parents: Tensor) -> None:
        """Beam b of `slots[i]` continues the past of beam `parents[i, b]`. `slots` [n], `parents` [n, width]."""
        own = self.beam_ancestry[slots]
        self.beam_ancestry[slots] = own.gather(1, parents[:, :, None].expand_as(own))

    def view_prefill(self, first: int, length: int) -> CacheView:
        """Returns a view of the slots from `first` on for their first `length` tokens, which all beams share."""
        count = self.used - first
        positions = torch.arange(length, device=self.beam_ancestry.device).expand(count, -1)
        self.beam_ancestry[first : self.used, :, :length] = 0
        beams = torch.zeros(length, dtype=torch.long, device=positions.device)
        return self._build_view(first, positions, beams, length)

    def view_step(self, positions: Sequence[int]) -> CacheView:
        """Returns a view of all slots in use for the next token of every beam. `positions`: one per slot."""
        beams = torch.arange(self.width, device=self.beam_ancestry.device)
        index = torch.tensor(positions, device=beams.device)
        slots = torch.arange(len(positions), device=beams.device)
        self.beam_ancestry[slots[:, None], beams, index[:, None]] = beams.to(self.beam_ancestry.dtype)
        return self._build_view(0, index[:, None].expand(-1, self.width), beams, max(positions) + 1)

    def _build_view(self, first: int, positions: Tensor, beams: Tensor, length: int) -> CacheView:
        """`positions` [count, queries]; `beams` [queries]: beam of each query; `length`: the largest position + 1."""
        count, queries = positions.shape
        like = self.k[0]
        ancestry = self.beam_ancestry[first : first + count, beams, :length]
        cross_lengths = self.cross_lengths[first : first + count]
        cross_length, cross_mask = max(cross_lengths), None
        if min(cross_lengths) != cross_length:
            ends = torch.tensor(cross_lengths, device=like.device)[:, None]
            visible = torch.arange(cross_length, device=like.device) < ends
            cross_mask = _to_additive_mask(visible, like)[:, None, None]
        return CacheView(
            cache=self,
            first=first,
            count=count,
            queries=queries,
            slot_index=torch.arange(count, device=like.device)[:, None],
            positions=positions,
            columns=positions * self.width + beams,
            key_count=length * self.width,
            self_mask=self._build_self_mask(ancestry, positions, like),
            cross_length=cross_length,
            cross_mask=cross_mask,
        )

    def _build_self_mask(self, ancestry: Tensor, positions: Tensor, like: Tensor) -> Tensor | None:
        """`ancestry` [count, queries, length], `positions` [count, queries] → [count, 1, queries, length · width]."""
        length = ancestry.shape[2]
        past = torch.arange(length, device=positions.device)
        if self.width == 1:
            if positions.shape[1] == 1 and bool((positions == length - 1).all()):
                return None
            visible = past <= positions[:, :, None]
        else:
            beams = torch.arange(self.width, device=positions.device)
            visible = (ancestry[..., None] == beams).flatten(2)
            visible &= past.repeat_interleave(self.width) <= positions[:, :, None]
        return _to_additive_mask(visible, like)[:, None]


def _to_additive_mask(visible: Tensor, like: Tensor) -> Tensor:
    """Returns 0 where `visible` is true and -inf elsewhere, with the dtype of `like`."""
    return like.new_zeros(visible.shape).masked_fill_(~visible, -torch.inf)
