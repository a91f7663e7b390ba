"""What is computed in fewer passes is what PEFT computes."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from finetune.tuning.fused_lora import fuse


def adapted(dropout: float = 0.0) -> PeftModel:
    """Two layers, one of them without a bias, adapted; no half of the adapter is nothing."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 7, bias=False))
    model = get_peft_model(plain, LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["0", "2"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


def answered(model: PeftModel, x: Tensor) -> Tensor:
    """The answer in 16 bits."""
    with torch.autocast("cpu", torch.bfloat16):
        return model(x)


def distance(got: Tensor, wanted: Tensor) -> float:
    return float((got.float() - wanted).norm() / wanted.norm())


def taught(model: PeftModel, x: Tensor, *, bfloat16: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """The answer, and the gradient of everything that has one."""
    x = x.clone().requires_grad_()
    y = answered(model, x) if bfloat16 else model(x)
    y.float().square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return y.detach(), {**gradients, "x": x.grad if x.grad is not None else torch.zeros(())}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))


def test_answers_and_gradients_are_pefts(x: Tensor) -> None:
    theirs, ours = adapted(), adapted()
    fuse(ours)
    wanted, got = taught(theirs, x), taught(ours, x)
    assert set(got[1]) == set(wanted[1])
    assert sum("lora" in name for name in got[1]) == 4
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_in_16_bits_it_is_as_near_to_exact_as_pefts_is(x: Tensor, scale: float) -> None:
    """Beside the whole what is learnt too, and what a young adapter adds."""
    exact, theirs, ours = models = [adapted() for _ in range(3)]
    fuse(ours)
    assert "_Beside" in type(answered(ours, x).grad_fn).__name__  # and keeps the base's weights
    assert "_Beside" not in type(answered(theirs, x).grad_fn).__name__
    with torch.no_grad():
        for model in models:
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(scale)
    wanted, rough, got = (taught(model, x, bfloat16=model is not exact) for model in models)
    assert got[0].dtype == torch.bfloat16
    assert set(got[1]) == set(wanted[1])
    assert distance(got[0], wanted[0]) < 1.3 * distance(rough[0], wanted[0]) < 0.02
    for name, gradient in wanted[1].items():
        assert distance(got[1][name], gradient) < 1.3 * distance(rough[1][name], gradient) < 0.03


def test_in_16_bits_off_and_merged_stay_pefts(x: Tensor) -> None:
    theirs, ours = adapted(), adapted()
    fuse(ours)
    answered(ours, x)
    with theirs.disable_adapter(), ours.disable_adapter():
        assert torch.equal(answered(ours, x), answered(theirs, x))
    for model in (theirs, ours):
        model.merge_adapter()
    assert torch.equal(answered(ours, x), answered(theirs, x))
    for model in (theirs, ours):
        model.unmerge_adapter()
    torch.testing.assert_close(answered(ours, x), answered(theirs, x), atol=0.2, rtol=0.02)


def test_no_rows_are_none(x: Tensor) -> None:
    model = adapted()
    fuse(model)
    assert answered(model, x[:0]).shape == model(x[:0]).shape == (0, 5, 7)


def test_off_it_is_the_base_bit_for_bit(x: Tensor) -> None:
    model = adapted()
    fuse(model)
    base = copy.deepcopy(model.get_base_model())
    with model.disable_adapter():
        off = model(x)
    plain = nn.Sequential(base[0].base_layer, base[1], base[2].base_layer)
    assert torch.equal(off, plain(x))
    assert not torch.equal(off, model(x))


def test_dropout_and_merging_stay_pefts(x: Tensor) -> None:
    theirs, ours = adapted(0.5), adapted(0.5)
    fuse(ours)
    answers = []
    for model in (theirs, ours):
        torch.manual_seed(3)
        answers.append(model(x))
    assert torch.equal(*answers)
    resting = ours.eval()(x)
    assert not torch.equal(resting, answers[1])
    ours.merge_adapter()
    torch.testing.assert_close(ours(x), resting, atol=1e-4, rtol=1e-5)
