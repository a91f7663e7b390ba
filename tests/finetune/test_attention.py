"""Attention that is quick to teach says what transformers' own does."""

import pytest
import torch
from transformers.models.bart.modeling_bart import eager_attention_forward

from finetune import attention
from seedling import architecture


@pytest.mark.parametrize(("kind", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("masked", [False, True])
def test_answers_and_gradients_are_those_of_eager(kind: torch.dtype, near: float, *, masked: bool) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7)]
    mask = torch.zeros(2, 1, 5, 7)
    mask[1, ..., 4:] = torch.finfo(torch.float32).min
    towards = torch.randn(2, 5, 3, 8)
    made = []
    for forward in (attention.quick, eager_attention_forward):
        out, shares = forward(
            torch.nn.Module(), *(p.to(kind) for p in parts), mask.to(kind) if masked else None, scaling=0.3, dropout=0.0
        )
        assert (out.dtype, out.shape, shares.shape) == (kind, (2, 5, 3, 8), (2, 3, 5, 7))
        made.append([out, shares, *torch.autograd.grad((out.float() * towards).sum(), parts)])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, atol=near, rtol=near)
    assert not masked or made[0][1][1, ..., 4:].abs().max() == 0


def test_a_model_that_attends_by_it_is_the_same_model() -> None:
    """Padding of prompts and the decoder's order are heeded: transformers has a mask for each kind of attention."""
    said = []
    for name in (attention.QUICK, "eager"):
        model = architecture.build_model(0, image_side=96)[0].eval()
        model.set_attn_implementation(name)
        image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        prompt = torch.tensor([[0, 9, 8, 7, 2], [0, 9, 2, 1, 1]])
        asked = torch.cat([torch.full((2, 37), model.config.image_token_id), prompt], 1)
        with torch.no_grad():
            said.append(
                model(
                    input_ids=asked, attention_mask=(asked != 1).long(), pixel_values=image,
                    decoder_input_ids=torch.tensor([[2, 0, 5, 6], [2, 0, 6, 5]]),
                ).logits
            )  # fmt: skip
    torch.testing.assert_close(said[0], said[1], atol=1e-4, rtol=1e-4)
