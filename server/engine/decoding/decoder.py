"""Continuous batching: sequences enter and leave the batch at any step.

Sequences with the same number of beams share a pool with one KV cache. A step sends the sequences of all pools through
the decoder at once, since its matrix products work on rows, whatever pool they belong to.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from server.engine.decoding.cuda_graphs import CudaGraphs
from server.engine.decoding.kv_cache import CacheView, KVCache
from server.engine.decoding.token_selection import PADDING, TokenSelector
from server.engine.model.florence2 import Florence2
from server.engine.model.linear import AdapterRows
from server.engine.sequence import Sequence


class SequencePool:
    """The running sequences of one number of beams. `sequences[i]` uses slot i of the KV cache."""

    def __init__(self, model: Florence2, width: int, capacity: int, ngram_size: int) -> None:
        """`capacity`: number of slots. `ngram_size`: 0 without an n-gram ban."""
        self.width = width
        self.cache: KVCache = model.create_kv_cache(width, capacity)
        self.sequences: list[Sequence] = []
        # Tokens of each beam, the start token first, for the n-gram ban. Empty without one.
        shape = (capacity, width, self.cache.max_positions + 1) if ngram_size else (0, 0, 0)
        self.generated = torch.full(shape, PADDING, device=model.device)

    def remove(self, sequence: Sequence) -> None:
        slot = self.sequences.index(sequence)
        moved = self.cache.free(slot)
        if len(self.generated):
            self.generated[slot] = self.generated[moved]
        last = self.sequences.pop()
        if last is not sequence:
            self.sequences[slot] = last

    def select_tokens(self, selector: TokenSelector, slots: list[int], logits: Tensor) -> None:
        """Advances the sequences in `slots` by one token. `logits` [slots · width, V] in fp32."""
        sequences = [self.sequences[i] for i in slots]
        searches = [sequence.search for sequence in sequences]
        lengths = [search.length + 1 for search in searches]
        index = torch.tensor(slots, device=logits.device)
        has_ban = len(self.generated) > 0
        generated = self.generated[index, :, : max(lengths)].flatten(0, 1) if has_ban else self.generated
        candidates = selector.select(searches, logits, generated, lengths, _stack_allowed_tokens(sequences, logits))
        parents = [sequence.advance(own) for sequence, own in zip(sequences, candidates, strict=True)]
        if any(own != list(range(self.width)) for own in parents):
            order = torch.tensor(parents, device=logits.device)
            self.cache.reorder_beams(index, order)
            if has_ban:
                past = self.generated[index]
                self.generated[index] = past.gather(1, order[:, :, None].expand(-1, -1, past.shape[2]))
        if has_ban:
            tokens = torch.tensor([search.last_tokens for search in searches], device=logits.device)
            self.generated[index, :, torch.tensor(lengths, device=logits.device)] = tokens


class BatchDecoder:
    """Decodes all running sequences, one token each per step."""

    def __init__(self, model: Florence2, selector: TokenSelector, capacity: int) -> None:
        """`capacity`: the largest number of sequences at once, and the number of slots of each pool."""
        self.model, self.selector, self.capacity = model, selector, capacity
        self.graphs = CudaGraphs(model) if model.device.type == "cuda" else None
        self._pools: dict[int, SequencePool] = {}  # by number of beams
        self.steps = 0

    def __len__(self) -> int:
        return sum(len(pool.sequences) for pool in self._pools.values())

    @torch.inference_mode()
    def add(self, sequences: list[Sequence], states: Tensor, lengths: list[int]) -> None:
        """Adds sequences with the same number of beams and runs their prefill.

        `states` [sequences, tokens, d]: encoder states, of which the first `lengths` of each sequence are valid. The
        prefill sends the start token and the forced first token through the decoder together. If this raises, `remove`
        undoes it.
        """
        width = sequences[0].num_beams
        if width not in self._pools:
            self._pools[width] = SequencePool(self.model, width, self.capacity, self.selector.ngram_size)
        pool = self._pools[width]
        first = pool.cache.allocate(lengths)
        pool.sequences += sequences  # before anything below can fail, so that `remove` finds them
        config = sequences[0].search.config
        prefix = [config.decoder_start_token_id]
        if config.forced_bos_token_id is not None:
            prefix.append(config.forced_bos_token_id)
        view = pool.cache.view_prefill(first, len(prefix))
        adapters = [sequence.adapter_key for sequence in sequences]
        self.model.write_cross_attention(states, view, group_rows_by_adapter(adapters, states.device))
        logits = self._decode([(view, prefix * len(sequences))], [key for key in adapters for _ in prefix])
        if len(pool.generated):
            pool.generated[first : pool.cache.used] = PADDING
            pool.generated[first : pool.cache.used, :, 0] = prefix[0]
        for column in logits.view(len(sequences), len(prefix), -1).unbind(1):
            # A request for a single token is done after the first column.
            slots = [first + i for i, s in enumerate(sequences) if not s.search.done and s.error is None]
            if slots:
                own = column[torch.tensor(slots, device=column.device) - first]
                pool.select_tokens(self.selector, slots, own.repeat_interleave(width, 0))

    @torch.inference_mode()
    def step(self) -> None:
        """Generates the next token of every sequence."""
        pools = [pool for pool in self._pools.values() if pool.sequences]
        parts: list[tuple[CacheView, list[int]]] = []
        adapters: list[str | None] = []
        for pool in pools:
            view = pool.cache.view_step([sequence.search.length for sequence in pool.sequences])
            parts.append((view, [token for sequence in pool.sequences for token in sequence.search.last_tokens]))
            adapters += [sequence.adapter_key for sequence in pool.sequences for _ in range(pool.width)]
        if self.graphs and not any(adapters):
            logits = torch.cat([self.graphs.decode(view, tokens) for view, tokens in parts])
        else:
            logits = self._decode(parts, adapters)
        self.steps += 1
        for pool, own in zip(pools, logits.split([view.rows for view, _ in parts]), strict=True):
            pool.select_tokens(self.selector, list(range(len(pool.sequences))), own)

    @torch.inference_mode()
    def remove(self, sequence: Sequence) -> None:
        """Frees the slot of a sequence, if it has one. Sequences that are done must be removed too."""
        if (pool := self._pools.get(sequence.num_beams)) and sequence in pool.sequences:
            pool.remove(sequence)

    def _decode(self, parts: list[tuple[CacheView, list[int]]], adapters: list[str | None]) -> Tensor:
        """Runs the decoder once → logits [rows, V] in fp32. `parts`: views and their newest tokens, one per row.
        `adapters`: one key per row."""
        device = self.model.device
        tokens = torch.tensor([token for _, own in parts for token in own], device=device)
        positions = torch.cat([view.positions.flatten() for view, _ in parts])
        views = [view for view, _ in parts]
        return self.model.decode(tokens, positions, views, group_rows_by_adapter(adapters, device))


def group_rows_by_adapter(adapters: Iterable[str | None], device: torch.device) -> list[AdapterRows]:
    """Returns the rows of each adapter. `adapters`: the key of each row, None for rows without an adapter."""
    rows: dict[str, list[int]] = {}
    for row, adapter in enumerate(adapters):
        if adapter is not None:
            rows.setdefault(adapter, []).append(row)
    return [AdapterRows(adapter, torch.tensor(own, device=device)) for adapter, own in rows.items()]


def _stack_allowed_tokens(sequences: list[Sequence], logits: Tensor) -> Tensor | None:
    """Returns [rows, V]: the tokens that the constraint of each row allows. None when no sequence has a constraint."""
    if not any(sequence.constraint for sequence in sequences):
        return None
    unconstrained = torch.ones(logits.shape[1], dtype=torch.bool)
    rows: list[Tensor] = []
    for sequence in sequences:
        if sequence.constraint:
            rows += [sequence.constraint.get_allowed_tokens(state) for state in sequence.constraint_states]
        else:
            rows += [unconstrained] * sequence.num_beams
    return torch.stack(rows).to(logits.device)
