"""What training reckons with: the number type of products."""

import torch


def precision(device: str | None = None) -> str:
    """bf16 where `device` ("cuda" or "cpu"; None: CUDA where there is some) has matrix products of that type; elsewhere
    they take a hundred times fp32's time."""
    if (device or ("cuda" if torch.cuda.is_available() else "cpu")) == "cuda":
        return "bf16"
    return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "no"
