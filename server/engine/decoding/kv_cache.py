"""Key-value slots: what running requests remember, each in a place of its own.

A request holds one slot from its prefill to its end: the keys and values of its encoder states, which its beams share,
and those of every token that its beams have said. Beams are not copied when they are reordered: `ancestors` says which
beam said the token at each position of a beam's past, and a mask made from it hides the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BartConfig


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring slots that go through the decoder together, `queries` rows each.

    `index` [count, 1]: 0, 1 …; `places` and `columns` [count, queries]: each row's position, and where its keys and
    values are written. `reach`: how many columns are looked at.
    `mask` [count, 1, queries, reach] and `source_mask` [count, 1, 1, sources] are added to the scores; None hides
    nothing.
    """

    slots: "Slots"
    first: int
    count: int
    queries: int
    index: Tensor
    places: Tensor
    columns: Tensor
    reach: int
    mask: Tensor | None
    sources: int
    source_mask: Tensor | None

    @property
    def rows(self) -> int:
        return self.count * self.queries

    def remember(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the newest tokens' keys and values [count, queries, heads, d]; returns all to look at,
        [count, heads, reach, d] each."""
        keys, values = (kept[layer][self.first : self.first + self.count] for kept in (self.slots.k, self.slots.v))
        keys[self.index, :, self.columns] = k.to(keys.dtype)
        values[self.index, :, self.columns] = v.to(values.dtype)
        return keys[:, :, : self.reach], values[:, :, : self.reach]

    def learn(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keeps the encoder's keys and values [count, heads, tokens, d]."""
        for kept, new in ((self.slots.source_k, k), (self.slots.source_v, v)):
            kept[layer][self.first : self.first + self.count, :, : new.shape[2]] = new

    def source(self, layer: int) -> tuple[Tensor, Tensor]:
        """The encoder's keys and values, [count, heads, sources, d] each."""
        own = slice(self.first, self.first + self.count)
        return (
            self.slots.source_k[layer][own, :, : self.sources],
            self.slots.source_v[layer][own, :, : self.sources],
        )


class Slots:
    """`count` slots for requests of `width` beams; those in use are always the first ones, in the order of `lengths`.

    Memory is asked for at once: `count` times `size` bytes, a slot known beforehand. On a CPU pages that are never
    written cost nothing.
    """

    def __init__(
        self, config: BartConfig, width: int, count: int, *, spare: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        """`spare`: positions past the model's last, for guesses that go too far."""
        self.width, self.count, self.positions = width, count, config.max_position_embeddings + spare
        heads = config.decoder_attention_heads
        shape = (count, heads, self.positions * width, config.d_model // heads)
        source = (count, heads, config.max_position_embeddings, config.d_model // heads)
        layers = range(config.decoder_layers)
        self.k, self.v = ([torch.zeros(shape, device=device, dtype=dtype) for _ in layers] for _ in range(2))
        self.source_k, self.source_v = (
            [torch.zeros(source, device=device, dtype=dtype) for _ in layers] for _ in range(2)
        )
        # The beam that said the token at each position of each beam's past; -1 where nothing is said yet.
        self.ancestors = torch.full((count, width, self.positions), -1, device=device, dtype=torch.int8)
        self.sources: list[int] = []  # encoder tokens of each slot in use

    @property
    def used(self) -> int:
        return len(self.sources)

    def enter(self, sources: Sequence[int]) -> int:
        """Takes slots for requests with this many encoder tokens; returns the first. There must be room."""
        first = self.used
        self.sources += sources
        self.ancestors[first : self.used] = -1
        return first

    def leave(self, slot: int) -> int:
        """Frees a slot; the last one moves into its place, so that those in use stay neighbours. Returns the last."""
        last = self.used - 1
        if slot != last:
            for layer in range(len(self.k)):
                said = int((self.ancestors[last] >= 0).any(0).sum()) * self.width
                for kept in (self.k, self.v):
                    kept[layer][slot, :, :said] = kept[layer][last, :, :said]
                seen = self.sources[last]
                for kept in (self.source_k, self.source_v):
                    kept[layer][slot, :, :seen] = kept[layer][last, :, :seen]
            self.ancestors[slot] = self.ancestors[last]
            self.sources[slot] = self.sources[last]
        self.sources.pop()
        return last

    def reorder(self, slots: Tensor, parents: Tensor) -> None:
        """Beam b of each of the `slots` [n] goes on from the past of beam `parents` [n, width]."""
        own = self.ancestors[slots]
        self.ancestors[slots] = own.gather(1, parents[:, :, None].expand_as(own))

    def span(self, first: int, positions: Sequence[Sequence[int]]) -> Span:
        """The slots from `first` on, with the positions of each one's newest tokens: one for each beam, all at the same
        position, or in a slot of one beam several in a row (the first beam's, when the beams are still alike)."""
        count, queries = len(positions), len(positions[0])
        like = self.k[0]
        device = like.device
        together = self.width > 1 and not (queries == self.width and len(set(positions[0])) == 1)
        beams = [0] * queries if together or self.width == 1 else list(range(self.width))
        places, speaking = torch.tensor(positions, device=device), torch.tensor(beams, device=device)
        columns = places * self.width + speaking
        own = self.ancestors[first : first + count]
        far = max(map(max, positions)) + 1
        slots = torch.arange(count, device=device)[:, None]
        if together:
            # Before the beams part, all of them go on from what the first one is told.
            own[slots[:, :, None], torch.arange(self.width, device=device)[None, :, None], places[:, None]] = 0
        else:
            own[slots, speaking[None], places] = speaking.to(own.dtype)
        mask = self._mask(own[:, speaking, :far], places, like)
        sources = self.sources[first : first + count]
        longest = max(sources)
        hidden = None
        if min(sources) != longest:
            ends = torch.tensor(sources, device=device)[:, None]
            hidden = _additive(torch.arange(longest, device=device) < ends, like)[:, None, None]
        return Span(self, first, count, queries, slots, places, columns, far * self.width, mask, longest, hidden)

    def _mask(self, ancestors: Tensor, places: Tensor, like: Tensor) -> Tensor | None:
        """`ancestors` [count, queries, far], the rows' own `places` [count, queries] → [count, 1, queries, reach]."""
        far = ancestors.shape[2]
        if self.width == 1:
            if places.shape[1] == 1 and bool((places == far - 1).all()):
                return None
            shown = torch.arange(far, device=places.device) <= places[:, :, None]
        else:
            beams = torch.arange(self.width, device=places.device)
            shown = (ancestors[..., None] == beams).flatten(2)
            shown &= torch.arange(far, device=places.device).repeat_interleave(self.width) <= places[:, :, None]
        return _additive(shown, like)[:, None]


def _additive(shown: Tensor, like: Tensor) -> Tensor:
    """True → 0, False → -inf, in the type of the scores it is added to."""
    return like.new_zeros(shown.shape).masked_fill_(~shown, -torch.inf)
