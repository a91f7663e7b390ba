"""What training reckons with: the number type of products."""

import torch


def precision() -> str:
    """bf16 where the processor has matrix products of that type; elsewhere they take a hundred times fp32's time."""
    quick = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if quick else "no"
