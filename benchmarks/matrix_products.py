"""The matrix products of the vision encoder, as in the paper: their number of operations, and code to time them alone.

The convolutions at the start of each stage are included. (florist's vision encoder fuses some of them.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812
from transformers import Florence2VisionConfig


@dataclass(frozen=True, slots=True)
class MatrixProduct:
    """One kind of product."""

    count: int
    """Per image."""
    operations: int
    """Of one product; a multiplication and an addition are two."""
    prepare: Callable[[], Callable[[], object]]
    """Allocates the operands and returns a function that computes the product."""


def list_matrix_products(config: Florence2VisionConfig, side: int, dtype: torch.dtype) -> list[MatrixProduct]:
    """Returns the products for one image of `side` × `side` pixels."""

    def linear(count: int, tokens: int, inputs: int, outputs: int) -> MatrixProduct:
        def prepare() -> Callable[[], object]:
            x, weight, bias = (torch.randn(s).to(dtype) for s in ((tokens, inputs), (outputs, inputs), (outputs,)))
            out = torch.empty(tokens, outputs, dtype=dtype)
            return lambda: torch.addmm(bias, x, weight.T, out=out)

        return MatrixProduct(count, 2 * tokens * inputs * outputs, prepare)

    def batched(count: int, n: int, rows: int, inner: int, outer: int) -> MatrixProduct:
        def prepare() -> Callable[[], object]:
            a, b = torch.randn(n, rows, inner).to(dtype), torch.randn(n, inner, outer).to(dtype)
            out = torch.empty(n, rows, outer, dtype=dtype)
            return lambda: torch.bmm(a, b, out=out)

        return MatrixProduct(count, 2 * n * rows * inner * outer, prepare)

    def convolution(inputs: int, side: int, outputs: int, stage: int) -> MatrixProduct:
        size, stride, padding = (v[stage] for v in (config.patch_size, config.patch_stride, config.patch_padding))
        after = (side + 2 * padding - size) // stride + 1

        def prepare() -> Callable[[], object]:
            x, weight = (
                torch.randn(s).to(dtype).contiguous(memory_format=torch.channels_last)
                for s in ((1, inputs, side, side), (outputs, inputs, size, size))
            )
            return lambda: F.conv2d(x, weight, None, stride, padding)

        return MatrixProduct(1, 2 * after * after * outputs * inputs * size * size, prepare)

    products: list[MatrixProduct] = []
    inputs = config.in_channels
    for stage, (c, depth) in enumerate(zip(config.embed_dim, config.depths, strict=True)):
        products.append(convolution(inputs, side, c, stage))
        size, stride, padding = (v[stage] for v in (config.patch_size, config.patch_stride, config.patch_padding))
        side, inputs = (side + 2 * padding - size) // stride + 1, c
        tokens, heads, groups = side * side, config.num_heads[stage], config.num_groups[stage]
        windows, window = (-(-side // config.window_size)) ** 2, config.window_size**2
        hidden = int(c * config.mlp_ratio)
        products += [
            linear(depth, windows * window, c, 3 * c),
            linear(depth, windows * window, c, c),
            batched(depth, windows * heads, window, c // heads, window),
            batched(depth, windows * heads, window, window, c // heads),
            linear(depth, tokens, c, 3 * c),
            linear(depth, tokens, c, c),
            batched(depth, groups, c // groups, tokens, c // groups),
            batched(depth, groups, tokens, c // groups, c // groups),
            linear(2 * depth, tokens, c, hidden),
            linear(2 * depth, tokens, hidden, c),
        ]
    return [*products, linear(1, side * side + 1, inputs, config.projection_dim)]
