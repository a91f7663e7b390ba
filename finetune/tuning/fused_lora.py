"""LoRA's forward and backward pass with fewer passes over the activations than PEFT's."""

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class _FusedLoraLinear(torch.autograd.Function):
    """y = x·(W + s·B·A)ᵀ + bias, with frozen W and bias. x [..., in], W [out, in], A [r, in], B [out, r].

    Forward: one product instead of three and their sum. Backward, with g the gradient of y and all positions as rows:
    gx = g·(W + s·B·A), gA = s·(g·B)ᵀ·x, gB = s·gᵀ·(x·Aᵀ).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return F.linear(x, _merge(weight, a, b, scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        [gradient] = gradients
        # Merged again: to save it would store the weights once more for each call of each module.
        grad_x = gradient @ _merge(weight, a, b, ctx.scale) if ctx.needs_input_grad[0] else None
        grad_rows, x_rows = _to_rows(gradient), _to_rows(x)
        grad_a = ctx.scale * ((grad_rows @ b).T @ x_rows)
        grad_b = ctx.scale * (grad_rows.T @ (x_rows @ a.T))
        return grad_x, None, None, grad_a, grad_b, None


class _HalfLoraLinear(torch.autograd.Function):
    """The same in 16 bits: the product with s·B·A is added in place to the product with W.

    In W + s·B·A the small values of a new adapter would be lost by rounding. x, W and bias have 16 bits; A, B and their
    gradients are fp32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        a, b = a.to(x.dtype), (scale * b).to(x.dtype)
        x_rows = _to_rows(x)
        low = x_rows @ a.T
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return F.linear(x_rows, weight, bias).addmm_(low, b.T).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        grad_rows = _to_rows(gradients[0])
        grad_low = grad_rows @ b
        grad_x = (grad_rows @ weight).addmm_(grad_low, a).view_as(x) if ctx.needs_input_grad[0] else None
        grad_a = (grad_low.T @ _to_rows(x)).float()
        return grad_x, None, None, grad_a, ctx.scale * (grad_rows.T @ low).float(), None


def _to_rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def _merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight, b, a, alpha=scale)


def fuse_lora_layers(model: nn.Module) -> None:
    """Replaces the forward pass of PEFT's linear layers that have one adapter.

    PEFT's own pass is still used with adapters disabled or merged and with dropout. The weights of the base must not
    change afterwards: their 16-bit copies are kept from the first call on.
    """
    for module in model.modules():
        if isinstance(module, Linear):
            module.forward = partial(_forward, module, module.forward, {})  # type: ignore[method-assign]


def _forward(
    module: Linear, original: Any, half_weights: dict[torch.dtype, tuple[Tensor, Tensor | None]], x: Tensor,
    *args: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    """Computes a layer. `half_weights` receives the 16-bit copies of the base's weight and bias."""
    base, device_type = module.get_base_layer(), x.device.type
    assert isinstance(base, nn.Linear)
    if module.disable_adapters or module.merged or args or kwargs or module.active_adapters != ["default"]:
        return original(x, *args, **kwargs)
    if module.training and not isinstance(module.lora_dropout["default"], nn.Identity):
        return original(x)
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    if base.weight.dtype != torch.float32:
        return original(x)
    if not torch.is_autocast_enabled(device_type):
        return _FusedLoraLinear.apply(x, base.weight, base.bias, a, b, module.scaling["default"])
    dtype = torch.get_autocast_dtype(device_type)
    if dtype not in half_weights:
        with torch.inference_mode(False):  # inference tensors could not be used in training
            half_weights[dtype] = base.weight.to(dtype), None if base.bias is None else base.bias.to(dtype)
    with torch.autocast(device_type, enabled=False):
        return _HalfLoraLinear.apply(x.to(dtype), *half_weights[dtype], a, b, module.scaling["default"])
