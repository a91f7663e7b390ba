"""The linear layer of all our modules: dense weights, and low-rank adapters on top for those rows that ask for one."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class LoraDelta(NamedTuple):
    """One LoRA pair (Hu et al. 2021, arXiv:2106.09685) on the outputs `first` … `first` + len(b) of a layer.

    `a` [rank, inputs], `b` [outputs, rank]; `scale` as PEFT reckons it (alpha / rank).
    """

    first: int
    a: Tensor
    b: Tensor
    scale: float


class AdapterRows(NamedTuple):
    """The rows of a batch (its first dimension) that one adapter answers for; None for all of them."""

    adapter: str
    rows: Tensor | None


BatchAdapters = Sequence[AdapterRows]


class PackedMatrix:
    """A matrix laid out once for a CPU's kernels (oneDNN), where that pays: a plain one is laid out anew at every call.

    That costs little beside the thousand rows of a picture, and half the time or more beside a step's few. The plain
    matrix stays, for those who read its values.
    """

    # Values below which the call costs more than the layout saves; a plain product in 16 bits is dearer.
    LEAST: ClassVar = {torch.float32: 1 << 18, torch.bfloat16: 1 << 14, torch.float16: 1 << 14}
    ROWS = 16  # of a step, which the layout is made for; others take it too

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` [outputs, inputs], `bias` [outputs]."""
        self.weight, self.bias, self.packed = weight, bias, None
        kernels = torch.ops.mkldnn
        ready = {
            torch.float32: True,
            torch.bfloat16: kernels._is_mkldnn_bf16_supported(),
            torch.float16: kernels._is_mkldnn_fp16_supported(),
        }
        if weight.device.type == "cpu" and ready.get(weight.dtype) and weight.numel() >= self.LEAST[weight.dtype]:
            self.packed = kernels._reorder_linear_weight(weight.detach(), self.ROWS)

    def multiply(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """x [rows, …, inputs] → x Wᵀ + b [rows, …, outputs], then GELU where asked."""
        if self.packed is None:
            y = F.linear(x, self.weight, self.bias)
            return torch.ops.aten.gelu_(y) if gelu else y
        kind, form = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, kind, [], form)


class LoraLinear(nn.Module):
    """x Wᵀ + b, to which each adapter adds scale · (x Aᵀ) Bᵀ on its own rows, in PEFT's order of operations.

    Layers that read the same input stand here as one (q, k and v); an adapter of one of them covers its outputs.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self.adapters: dict[str, list[LoraDelta]] = {}
        self._packed: PackedMatrix | None = None

    def arrange(self) -> None:
        """Lays the weights out for the device, once they are there."""
        self._packed = PackedMatrix(self.weight, self.bias)

    def forward(self, x: Tensor, shares: BatchAdapters = (), *, gelu: bool = False) -> Tensor:
        """x [rows, …, inputs] → [rows, …, outputs], then GELU where asked."""
        added = [(rows, pair) for adapter, rows in shares for pair in self.adapters.get(adapter, ())]
        y = (self._packed or PackedMatrix(self.weight, self.bias)).multiply(x, gelu=gelu and not added)
        for rows, (first, a, b, scale) in added:
            own = y[..., first : first + len(b)]
            if rows is None:
                own += F.linear(F.linear(x, a), b) * scale
            else:
                own.index_add_(0, rows, F.linear(F.linear(x[rows], a), b) * scale)
        return torch.ops.aten.gelu_(y) if gelu and added else y
