"""The Muon optimizer: steps along the nearest orthogonal matrix of the gradient (Jordan et al. 2024).

Steps are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2). The iteration runs in
bfloat16 where the processor has fast bfloat16 products, which halves its time; elsewhere bfloat16 would take 26 times
as long. torch.optim.Muon always uses bfloat16, and does not accept convolution kernels.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed

from finetune.precision import select_precision

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: steepest at 0, so five rounds are enough


def orthogonalize(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Returns approximately U Vᵀ of a matrix U S Vᵀ, [rows, columns], by Newton-Schulz: singular values of 0.7-1.2."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = (x / (x.norm() + 1e-7)).to(torch.bfloat16 if select_precision(matrix.device.type) == "bf16" else matrix.dtype)
    for _ in range(rounds):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For hidden matrices [out, in] and convolution kernels [out, in, h, w], which are treated as [out, in·h·w].

    Embeddings, positions, biases and norms need AdamW; learning rates of AdamW fit here too. Several processes with the
    same gradients share the work.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the parameters once, with Nesterov momentum."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            directions = []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                directions.append(weight.grad.lerp(momentum, group["momentum"]).flatten(1))
            for weight, step in zip(weights, _orthogonalize_all(directions), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(step.view_as(weight), alpha=-group["lr"] * 0.2 * max(step.shape) ** 0.5)


def _orthogonalize_all(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Orthogonalizes all matrices, distributed over the processes of the default group, the largest first."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return [orthogonalize(matrix) for matrix in matrices]
    loads = [0] * distributed.get_world_size()
    results = [torch.zeros_like(matrix) for matrix in matrices]
    for i in sorted(range(len(matrices)), key=lambda i: -matrices[i].numel()):
        least = loads.index(min(loads))
        loads[least] += matrices[i].numel()
        if least == distributed.get_rank():
            results[i] = orthogonalize(matrices[i])
    flat = torch._utils._flatten_dense_tensors(results)
    distributed.all_reduce(flat)
    return list(torch._utils._unflatten_dense_tensors(flat, matrices))
