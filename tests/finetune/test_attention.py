"""The bf16 attention, compared with transformers' eager attention."""

import pytest
import torch
from transformers.models.bart.modeling_bart import eager_attention_forward

from finetune import attention
from seedling import architecture


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_gradients_equal_eager_attention(dtype: torch.dtype, tolerance: float, *, masked: bool) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7)]
    mask = torch.zeros(2, 1, 5, 7)
    mask[1, ..., 4:] = torch.finfo(torch.float32).min
    direction = torch.randn(2, 5, 3, 8)
    results = []
    for forward in (attention.compute_bf16_attention, eager_attention_forward):
        out, weights = forward(
            torch.nn.Module(),
            *(p.to(dtype) for p in parts),
            mask.to(dtype) if masked else None,
            scaling=0.3,
            dropout=0.0,
        )
        assert (out.dtype, out.shape, weights.shape) == (dtype, (2, 5, 3, 8), (2, 3, 5, 7))
        results.append([out, weights, *torch.autograd.grad((out.float() * direction).sum(), parts)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
    assert not masked or results[0][1][1, ..., 4:].abs().max() == 0


def test_a_model_has_the_same_logits_with_it() -> None:
    """Prompt padding and the causal mask work: transformers has a mask function for each attention."""
    logits = []
    for name in (attention.BF16_EAGER, "eager"):
        model = architecture.build_model(0, image_side=96)[0].eval()
        model.set_attn_implementation(name)
        image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        prompt = torch.tensor([[0, 9, 8, 7, 2], [0, 9, 2, 1, 1]])
        inputs = torch.cat([torch.full((2, 37), model.config.image_token_id), prompt], 1)
        with torch.no_grad():
            logits.append(
                model(
                    input_ids=inputs, attention_mask=(inputs != 1).long(), pixel_values=image,
                    decoder_input_ids=torch.tensor([[2, 0, 5, 6], [2, 0, 6, 5]]),
                ).logits
            )  # fmt: skip
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
