"""The number type of matrix products in training."""

import torch


def select_precision(device: str | None = None) -> str:
    """Returns Accelerate's mixed precision: `bf16` if `device` has fast matrix products in it, else `no`.

    `device`: `cuda` or `cpu`; None: CUDA if available. A CPU without such products takes a hundred times the time of
    fp32.
    """
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda":
        return "bf16"
    return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "no"
