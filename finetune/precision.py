"""What training reckons with: the number type of products, and how attention is reckoned on a CPU."""

import torch


def precision() -> str:
    """bf16 where the processor has matrix products of that type; elsewhere they take a hundred times fp32's time."""
    quick = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if quick else "no"


def attention() -> str:
    """Which attention is faster to teach on a CPU: in bf16 the backward of sdpa over DaViT's channels (head_dim is
    their number of cells) is 1.6 times slower than eager's; in fp32 sdpa's step is a tenth faster."""
    return "eager" if precision() == "bf16" else "sdpa"
