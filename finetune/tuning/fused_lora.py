"""LoRA's forward and backward in fewer passes over the activations than PEFT's."""

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class _Adapted(torch.autograd.Function):
    """y = x·(W + s·B·A)ᵀ + bias, W and bias frozen. x [..., in], W [out, in], A [r, in], B [out, r].

    One product forward instead of three and their sum. Backward, with g the gradient of y and all positions in rows:
    gx = g·(W + s·B·A), gA = s·(g·B)ᵀ·x, gB = s·gᵀ·(x·Aᵀ).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return F.linear(x, _sum(weight, a, b, scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        [gradient] = gradients
        # The sum anew: kept, it would be the weights once more for each call of each module.
        passed = gradient @ _sum(weight, a, b, ctx.scale) if ctx.needs_input_grad[0] else None
        rows, seen = _rows(gradient), _rows(x)
        to_a = ctx.scale * ((rows @ b).T @ seen)
        to_b = ctx.scale * (rows.T @ (seen @ a.T))
        return passed, None, None, to_a, to_b, None


class _Beside(torch.autograd.Function):
    """The same in 16 bits, where what a young adapter adds would be lost in the rounding of W: the product with s·B·A
    beside that with W, added where it lies. x, W and bias are of 16 bits, A and B in fp32, as are their gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), (scale * b).to(x.dtype)
        seen = _rows(x)
        low = seen @ a.T
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return F.linear(seen, weight, bias).addmm_(low, b.T).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        rows = _rows(gradients[0])
        back = rows @ b
        passed = (rows @ weight).addmm_(back, a).view_as(x) if ctx.needs_input_grad[0] else None
        return passed, None, None, (back.T @ _rows(x)).float(), ctx.scale * (rows.T @ low).float(), None


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight, b, a, alpha=scale)


def fuse(model: nn.Module) -> None:
    """Lets PEFT's layers of the model, one adapter on linear layers, compute so. What PEFT can do besides (adapters
    off, merged, with dropout) stays its own. The base's weights must never change after: what is computed in 16 bits
    keeps them so from its first call on."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.forward = partial(_forward, module, module.forward, {})  # type: ignore[method-assign]


def _forward(
    module: Linear, theirs: Any, frozen: dict[torch.dtype, tuple[Tensor, Tensor | None]], x: Tensor,
    *args: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    """`frozen`: the base's weights in the 16 bits that are computed in."""
    base, kind = module.get_base_layer(), x.device.type
    assert isinstance(base, nn.Linear)
    if module.disable_adapters or module.merged or args or kwargs or module.active_adapters != ["default"]:
        return theirs(x, *args, **kwargs)
    if module.training and not isinstance(module.lora_dropout["default"], nn.Identity):
        return theirs(x)
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    if base.weight.dtype != torch.float32:
        return theirs(x)
    if not torch.is_autocast_enabled(kind):
        return _Adapted.apply(x, base.weight, base.bias, a, b, module.scaling["default"])
    dtype = torch.get_autocast_dtype(kind)
    if dtype not in frozen:
        with torch.inference_mode(False):  # else they could never be taught beside
            frozen[dtype] = base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype)
    with torch.autocast(kind, enabled=False):
        return _Beside.apply(x.to(dtype), *frozen[dtype], a, b, module.scaling["default"])
