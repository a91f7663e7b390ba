"""The linear layer of the model: dense weights, plus LoRA adapters on the rows of a batch that use them."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class LoraDelta(NamedTuple):
    """One LoRA pair (Hu et al. 2021, arXiv:2106.09685) on the outputs `first_output` … `first_output` + len(b).

    `a` [rank, inputs], `b` [outputs, rank]. `scale`: alpha / rank, as PEFT computes it.
    """

    first_output: int
    a: Tensor
    b: Tensor
    scale: float


class AdapterRows(NamedTuple):
    """The rows of a batch (its first dimension) that use one adapter. None means all rows."""

    adapter_key: str
    rows: Tensor | None


BatchAdapters = Sequence[AdapterRows]
"""The adapters of a batch. Rows that are not listed use the base model."""


class PackedMatrix:
    """A matrix in the blocked layout of the CPU kernels (oneDNN), where that is faster. Otherwise it stays plain.

    oneDNN reorders a plain matrix at every call. The reordering is cheap compared to the thousand rows of an image, but
    takes half of the time or more when a decoder step has only a few rows. The plain matrix stays available.
    """

    # Packing is faster for matrices with at least this many values. The plain product is slower in 16 bits.
    MIN_VALUES: ClassVar = {torch.float32: 1 << 18, torch.bfloat16: 1 << 14, torch.float16: 1 << 14}
    ROWS = 16  # the number of rows that the layout is optimized for; other numbers work too

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` [outputs, inputs], `bias` [outputs]."""
        self.weight, self.bias, self.packed = weight, bias, None
        kernels = torch.ops.mkldnn
        supported = {
            torch.float32: True,
            torch.bfloat16: kernels._is_mkldnn_bf16_supported(),
            torch.float16: kernels._is_mkldnn_fp16_supported(),
        }
        on_cpu = weight.device.type == "cpu" and supported.get(weight.dtype)
        if on_cpu and weight.numel() >= self.MIN_VALUES[weight.dtype]:
            self.packed = kernels._reorder_linear_weight(weight.detach(), self.ROWS)

    def multiply(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """x [rows, …, inputs] → x Wᵀ + b [rows, …, outputs], then GELU if `gelu`."""
        if self.packed is None:
            y = F.linear(x, self.weight, self.bias)
            return torch.ops.aten.gelu_(y) if gelu else y
        activation, algorithm = ("gelu", "none") if gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, activation, [], algorithm)


class LoraLinear(nn.Module):
    """x Wᵀ + b. Each adapter adds scale · (x Aᵀ) Bᵀ to its own rows, in PEFT's order of operations.

    Layers that read the same input are merged into one (q, k and v). A LoRA pair covers only the outputs of
    its own layer.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs), requires_grad=False) if bias else None
        self.deltas: dict[str, list[LoraDelta]] = {}  # by adapter key
        self._packed: PackedMatrix | None = None

    def pack(self) -> None:
        """Packs the weights for their device. Call it after the weights are loaded."""
        self._packed = PackedMatrix(self.weight, self.bias)

    def forward(self, x: Tensor, adapters: BatchAdapters = (), *, gelu: bool = False) -> Tensor:
        """x [rows, …, inputs] → [rows, …, outputs], then GELU if `gelu`."""
        deltas = [(rows, delta) for key, rows in adapters for delta in self.deltas.get(key, ())]
        y = (self._packed or PackedMatrix(self.weight, self.bias)).multiply(x, gelu=gelu and not deltas)
        for rows, (first, a, b, scale) in deltas:
            outputs = y[..., first : first + len(b)]
            if rows is None:
                outputs += F.linear(F.linear(x, a), b) * scale
            else:
                outputs.index_add_(0, rows, F.linear(F.linear(x[rows], a), b) * scale)
        return torch.ops.aten.gelu_(y) if gelu and deltas else y


class LoraTarget(NamedTuple):
    """A module that LoRA can adapt: the layer that computes it, and the module's first output in that layer."""

    layer: LoraLinear
    first_output: int
