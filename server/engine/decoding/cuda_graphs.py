"""Decoder steps as CUDA graphs: on a GPU the launches of a step's many small kernels take longer than the kernels.

A graph is bound to shapes and addresses, so a step is filled up to a bucket: of slots (1, 2, 4 …), of places looked at,
and of encoder tokens. What is filled up is hidden by the masks or thrown away. One graph is captured for each bucket
when it is first met. Without a GPU the same filled-up step runs as it is, which is how its answers are tested.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from server.engine.decoding.kv_cache import Span
from server.engine.model import Florence2

PLACES = 64  # the smallest bucket of places and of encoder tokens, and what the latter grow by


def bucket(size: int, least: int, most: int) -> int:
    """The smallest power of two times `least` that holds `size`, or `most`."""
    while least < size:
        least *= 2
    return min(least, most)


class Step:
    """One bucket: inputs at fixed addresses, the work on them, its output at a fixed address."""

    def __init__(self, model: Florence2, span: Span, count: int, places: int, sources: int) -> None:
        """`span`: any of the slots whose steps these are; `count`, `places`, `sources`: the bucket's sizes."""
        slots, like = span.slots, span.slots.k[0]
        self.tokens = torch.zeros(count * span.queries, dtype=torch.long, device=like.device)
        self.mask = like.new_zeros(count, 1, span.queries, places * slots.width)
        self.source_mask = like.new_zeros(count, 1, 1, sources)
        indices = self.tokens.view(count, span.queries)
        self.span = Span(
            slots, 0, count, span.queries, torch.arange(count, device=like.device)[:, None], indices.clone(),
            indices.clone(), places * slots.width, self.mask, sources, self.source_mask,
        )  # fmt: skip
        self._model = model
        self._graph: torch.cuda.CUDAGraph | None = None

    def fill(self, span: Span, tokens: Sequence[int]) -> None:
        """Takes the inputs of a step that fits."""
        own, n = self.span, span.count
        self.tokens[: span.rows] = torch.tensor(tokens, device=self.tokens.device)
        own.places[:n], own.columns[:n] = span.places, span.columns
        # Slots past those in use are nobody's: what is written there is overwritten by whoever enters next.
        own.places[n:], own.columns[n:] = 0, 0
        for kept, mask, seen in (
            (self.mask, span.mask, span.reach),
            (self.source_mask, span.source_mask, span.sources),
        ):
            kept[:n, ..., :seen] = 0 if mask is None else mask
            kept[:n, ..., seen:] = -torch.inf
            kept[n:] = 0

    def run(self) -> Tensor:
        """The logits of all rows, those that were filled up too."""
        return self._model.say(self.tokens, self.span.places.flatten(), [self.span])

    def capture(self, pool: Any) -> None:
        """Records the work as a graph, with inputs that are in: what is written meanwhile is what the step writes."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up at first use, which no graph may hold
            for _ in range(2):
                self.run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool):
            self._said = self.run()

    def replay(self) -> Tensor:
        """As `run`; the result holds until any graph of the pool is replayed."""
        assert self._graph is not None
        self._graph.replay()
        return self._said


class Graphs:
    """Steps by bucket, captured when they are first met."""

    def __init__(self, model: Florence2) -> None:
        self._model = model
        self._pool = torch.cuda.graph_pool_handle() if model.device.type == "cuda" else None
        self._steps: dict[tuple[int, ...], Step] = {}

    def say(self, span: Span, tokens: Sequence[int]) -> Tensor:
        """The newest tokens [span.rows] of all slots in use → logits [span.rows, V] in fp32."""
        slots = span.slots
        sizes = (
            bucket(span.count, 1, slots.count),
            bucket(span.reach // slots.width, PLACES, slots.positions),
            min(-(-span.sources // PLACES) * PLACES, slots.source_k[0].shape[2]),
        )
        key = (id(slots), span.queries, *sizes)
        step = self._steps.get(key) or Step(self._model, span, *sizes)
        step.fill(span, tokens)
        if self._pool is None:
            said = step.run()
        else:
            if key not in self._steps:
                step.capture(self._pool)
            said = step.replay()
        self._steps[key] = step
        return said[: span.rows].clone()
