"""The linear layer of all our modules: dense weights, and low-rank adapters on top for those rows that ask for one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class LowRank(NamedTuple):
    """One LoRA pair (Hu et al. 2021, arXiv:2106.09685) on the outputs `first` … `first` + len(b) of a layer.

    `a` [rank, inputs], `b` [outputs, rank]; `scale` as PEFT reckons it (alpha / rank).
    """

    first: int
    a: Tensor
    b: Tensor
    scale: float


class Share(NamedTuple):
    """The rows of a batch (its first dimension) that one adapter answers for; None for all of them."""

    adapter: str
    rows: Tensor | None


Shares = Sequence[Share]


class Linear(nn.Module):
    """x Wᵀ + b, to which each adapter adds scale · (x Aᵀ) Bᵀ on its own rows, in PEFT's order of operations.

    Layers that read the same input stand here as one (q, k and v); an adapter of one of them covers its outputs.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self.adapters: dict[str, list[LowRank]] = {}

    def forward(self, x: Tensor, shares: Shares = ()) -> Tensor:
        """x [rows, …, inputs] → [rows, …, outputs]."""
        y = F.linear(x, self.weight, self.bias)
        for adapter, rows in shares:
            for first, a, b, scale in self.adapters.get(adapter, ()):
                own = y[..., first : first + len(b)]
                if rows is None:
                    own += F.linear(F.linear(x, a), b) * scale
                else:
                    own.index_add_(0, rows, F.linear(F.linear(x[rows], a), b) * scale)
        return y
