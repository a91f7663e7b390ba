"""The fused LoRA layers, compared with PEFT's."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from finetune.tuning.fused_lora import fuse_lora_layers


def make_model(dropout: float = 0.0) -> PeftModel:
    """Returns two adapted layers, one without a bias; no factor of the adapter is zero."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 7, bias=False))
    model = get_peft_model(plain, LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["0", "2"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


def compute_in_bf16(model: PeftModel, x: Tensor) -> Tensor:
    """Returns the output with autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def compute_distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


def compute_gradients(model: PeftModel, x: Tensor, *, bfloat16: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the output, and all gradients by name."""
    x = x.clone().requires_grad_()
    y = compute_in_bf16(model, x) if bfloat16 else model(x)
    y.float().square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return y.detach(), {**gradients, "x": x.grad if x.grad is not None else torch.zeros(())}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))


def test_outputs_and_gradients_equal_peft(x: Tensor) -> None:
    theirs, ours = make_model(), make_model()
    fuse_lora_layers(ours)
    expected, actual = compute_gradients(theirs, x), compute_gradients(ours, x)
    assert set(actual[1]) == set(expected[1])
    assert sum("lora" in name for name in actual[1]) == 4
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_in_16_bits_it_is_as_precise_as_peft(x: Tensor, scale: float) -> None:
    """For the output and all gradients, also of a new adapter with small values."""
    exact, theirs, ours = models = [make_model() for _ in range(3)]
    fuse_lora_layers(ours)
    assert "_HalfLoraLinear" in type(compute_in_bf16(ours, x).grad_fn).__name__  # and caches the base's weights
    assert "_HalfLoraLinear" not in type(compute_in_bf16(theirs, x).grad_fn).__name__
    with torch.no_grad():
        for model in models:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(scale)
    expected, rough, actual = (compute_gradients(model, x, bfloat16=model is not exact) for model in models)
    assert actual[0].dtype == torch.bfloat16
    assert set(actual[1]) == set(expected[1])
    assert compute_distance(actual[0], expected[0]) < 1.3 * compute_distance(rough[0], expected[0]) < 0.02
    for name, gradient in expected[1].items():
        assert compute_distance(actual[1][name], gradient) < 1.3 * compute_distance(rough[1][name], gradient) < 0.03


def test_in_16_bits_disabled_and_merged_adapters_use_peft(x: Tensor) -> None:
    theirs, ours = make_model(), make_model()
    fuse_lora_layers(ours)
    compute_in_bf16(ours, x)
    with theirs.disable_adapter(), ours.disable_adapter():
        assert torch.equal(compute_in_bf16(ours, x), compute_in_bf16(theirs, x))
    for model in (theirs, ours):
        model.merge_adapter()
    assert torch.equal(compute_in_bf16(ours, x), compute_in_bf16(theirs, x))
    for model in (theirs, ours):
        model.unmerge_adapter()
    torch.testing.assert_close(compute_in_bf16(ours, x), compute_in_bf16(theirs, x), atol=0.2, rtol=0.02)


def test_an_empty_input_has_an_empty_output(x: Tensor) -> None:
    model = make_model()
    fuse_lora_layers(model)
    assert compute_in_bf16(model, x[:0]).shape == model(x[:0]).shape == (0, 5, 7)


def test_a_disabled_adapter_is_the_base_bit_for_bit(x: Tensor) -> None:
    model = make_model()
    fuse_lora_layers(model)
    base = copy.deepcopy(model.get_base_model())
    with model.disable_adapter():
        disabled = model(x)
    plain = nn.Sequential(base[0].base_layer, base[1], base[2].base_layer)
    assert torch.equal(disabled, plain(x))
    assert not torch.equal(disabled, model(x))


def test_dropout_and_merged_adapters_use_peft(x: Tensor) -> None:
    theirs, ours = make_model(0.5), make_model(0.5)
    fuse_lora_layers(ours)
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(3)
        outputs.append(model(x))
    assert torch.equal(*outputs)
    evaluated = ours.eval()(x)
    assert not torch.equal(evaluated, outputs[1])
    ours.merge_adapter()
    torch.testing.assert_close(ours(x), evaluated, atol=1e-4, rtol=1e-5)
