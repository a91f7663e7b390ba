"""Muon: a step along the gradient's nearest orthogonal matrix (Jordan et al. 2024), scaled to AdamW's size of step (Liu
et al. 2025, arXiv:2502.16982, §2.2).

In bfloat16 where the processor has its products, in half the time; elsewhere it would take 26 times as long, as
torch.optim.Muon does, which takes no kernels of convolutions either.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed

from finetune.precision import precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steepest at 0, so five rounds are enough


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """About U Vᵀ of the matrix U S Vᵀ, [rows, columns], by Newton and Schulz: singular values come out 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).to(torch.bfloat16 if precision(matrix.device.type) == "bf16" else matrix.dtype)
    for _ in range(rounds):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For hidden matrices [out, in] and kernels of convolutions [out, in, h, w], which count as [out, in·h·w]; words,
    places, biases and norms want AdamW, whose rates fit here too. Of several processes with the same gradients, each
    reckons its share of the matrices."""

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update, with Nesterov's momentum."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            ahead = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead.append(weight.grad.lerp(momentum, group["momentum"]).flatten(1))
            for weight, step in zip(weights, _orthogonal(ahead), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step.view_as(weight), alpha=-group["lr"] * 0.2 * max(step.shape) ** 0.5)


def _orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Each by `orthogonal`, the work split over the processes of the default group, the largest first."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return [orthogonal(matrix) for matrix in matrices]
    loads = [0] * distributed.get_world_size()
    found = [torch.zeros_like(matrix) for matrix in matrices]
    for i in sorted(range(len(matrices)), key=lambda i: -matrices[i].numel()):
        least = loads.index(min(loads))
        loads[least] += matrices[i].numel()
        if least == distributed.get_rank():
            found[i] = orthogonal(matrices[i])
    whole = torch._utils._flatten_dense_tensors(found)
    distributed.all_reduce(whole)
    return list(torch._utils._unflatten_dense_tensors(whole, matrices))
