"""Decoder steps as CUDA graphs. On a GPU, launching the many small kernels of a step takes longer than running them.

A graph is bound to shapes and addresses. Each step is therefore padded to a bucket: a number of slots (1, 2, 4, …), of
self-attention positions, and of encoder states. Masks hide the padding, or its output is discarded. A graph is captured
when its bucket is first used. Without a GPU the padded step runs without a graph, so that tests on a CPU can check it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from server.engine.decoding.kv_cache import CacheView
from server.engine.model.florence2 import Florence2

MIN_POSITIONS = 64  # the smallest bucket of positions, and the step size of the buckets of encoder states


def round_up_to_bucket(size: int, smallest: int, largest: int) -> int:
    """Returns the smallest of `smallest`, 2 · `smallest`, 4 · `smallest`, … that is at least `size`, capped at
    `largest`."""
    while smallest < size:
        smallest *= 2
    return min(smallest, largest)


class PaddedStep:
    """One bucket: inputs at fixed addresses, the decoder step on them, and its output at a fixed address."""

    def __init__(self, model: Florence2, view: CacheView, count: int, positions: int, cross_length: int) -> None:
        """`view`: any view of the KV cache with the same number of queries. `count`, `positions`, `cross_length`: sizes
        of the bucket."""
        cache, like, queries = view.cache, view.cache.k[0], view.queries
        self.tokens = torch.zeros(count * queries, dtype=torch.long, device=like.device)
        self.self_mask = like.new_zeros(count, 1, queries, positions * cache.width)
        self.cross_mask = like.new_zeros(count, 1, 1, cross_length)
        index = self.tokens.view(count, queries)
        self.view = CacheView(
            cache=cache,
            first=0,
            count=count,
            queries=queries,
            slot_index=torch.arange(count, device=like.device)[:, None],
            positions=index.clone(),
            columns=index.clone(),
            key_count=positions * cache.width,
            self_mask=self.self_mask,
            cross_length=cross_length,
            cross_mask=self.cross_mask,
        )
        self._model = model
        self._graph: torch.cuda.CUDAGraph | None = None

    def copy_inputs(self, view: CacheView, tokens: Sequence[int]) -> None:
        """Copies the inputs of a step into the padded inputs. The step must fit into the bucket."""
        padded, n = self.view, view.count
        self.tokens[: view.rows] = torch.tensor(tokens, device=self.tokens.device)
        padded.positions[:n], padded.columns[:n] = view.positions, view.columns
        # Slots past those in use are free: the next request that gets one overwrites what is written there.
        padded.positions[n:], padded.columns[n:] = 0, 0
        for target, mask, length in (
            (self.self_mask, view.self_mask, view.key_count),
            (self.cross_mask, view.cross_mask, view.cross_length),
        ):
            target[:n, ..., :length] = 0 if mask is None else mask
            target[:n, ..., length:] = -torch.inf
            target[n:] = 0

    def run(self) -> Tensor:
        """Returns the logits of all rows, including padding."""
        return self._model.decode(self.tokens, self.view.positions.flatten(), [self.view])

    def capture(self, pool: Any) -> None:
        """Captures the step as a graph. The inputs must be set: capturing writes to the KV cache as the step does."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # warm up: libraries initialize at first use, which a graph cannot capture
            for _ in range(2):
                self.run()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = self.run()

    def replay(self) -> Tensor:
        """Same as `run`. The result is valid until any graph of the memory pool is replayed."""
        assert self._graph is not None
        self._graph.replay()
        return self._output


class CudaGraphs:
    """Padded decoder steps by bucket, captured at first use."""

    def __init__(self, model: Florence2) -> None:
        self._model = model
        self._memory_pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None
        self.steps: dict[tuple[int, ...], PaddedStep] = {}  # by cache, queries, slots, positions, encoder states

    def decode(self, view: CacheView, tokens: Sequence[int]) -> Tensor:
        """The newest tokens [view.rows] of all slots in use → logits [view.rows, V] in fp32."""
        cache = view.cache
        sizes = (
            round_up_to_bucket(view.count, 1, cache.count),
            round_up_to_bucket(view.key_count // cache.width, MIN_POSITIONS, cache.max_positions),
            min(-(-view.cross_length // MIN_POSITIONS) * MIN_POSITIONS, cache.cross_k[0].shape[2]),
        )
        key = (id(cache), view.queries, *sizes)
        step = self.steps.get(key) or PaddedStep(self._model, view, *sizes)
        step.copy_inputs(view, tokens)
        if self._memory_pool is None:
            logits = step.run()
        else:
            if key not in self.steps:
                step.capture(self._memory_pool)
            logits = step.replay()
        self.steps[key] = step
        return logits[: view.rows].clone()
