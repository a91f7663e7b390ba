"""Attention that is quick to teach on a CPU with bf16 products: transformers knows it by the name `QUICK`.

Of torch's, the backward is what takes the time. eager's scores go through fp32 and are scaled one by one; here queries
are scaled, which are fewer, and a softmax of bf16 sums in fp32 inside the kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from finetune.precision import precision

QUICK = "quick"


def best() -> str:
    """Which attention is faster to teach on this machine's CPU: in fp32 sdpa's step is a tenth faster than eager's."""
    return QUICK if precision() == "bf16" else "sdpa"


def quick(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **others: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As transformers' `eager_attention_forward`: [b, heads, n, d] → [b, n, heads, d], and the shares [b, heads, n,
    m]. The mask is added to the scores."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # it would take the softmax to fp32 and back
        scores = (query * scaling) @ key.transpose(2, 3)
        if attention_mask is not None:
            scores = scores + attention_mask.to(scores.dtype).clamp(min=torch.finfo(scores.dtype).min)
        shares = F.dropout(scores.softmax(-1), dropout, module.training)
        return (shares @ value).transpose(1, 2).contiguous(), shares


ALL_ATTENTION_FUNCTIONS.register(QUICK, quick)
ALL_MASK_ATTENTION_FUNCTIONS.register(QUICK, eager_mask)
