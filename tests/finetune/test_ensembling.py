"""Adapters added up exactly, boxes fused, labels routed."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from finetune.ensembling import CombineError, add, fuse, route
from prompts.annotations import Box
from server.engine.adapters import lora
from tests.server.engine.tiny import save_adapter, tiny_model

ALL = ["q_proj", "fc1"]


def change(folder: Path, name: str) -> torch.Tensor:
    """What an adapter adds to a matrix of the tiny model, as PEFT merges it."""
    plain = dict(tiny_model().named_parameters())[name].detach()
    merged = PeftModel.from_pretrained(tiny_model(), str(folder)).merge_and_unload()
    return dict(merged.named_parameters())[name].detach() - plain


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of different ranks and alphas; the second leaves fc1 alone."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(folder / "one", seed=1, target_modules=ALL, r=4, lora_alpha=8),
        save_adapter(folder / "two", seed=2, target_modules=["q_proj"], r=2, lora_alpha=6),
    ]


@pytest.mark.parametrize("name", ["self_attn.q_proj", "fc1"])
def test_the_sum_of_changes_is_exact(adapters: list[Path], tmp_path: Path, name: str) -> None:
    matrix = f"model.language_model.decoder.layers.1.{name}.weight"
    add(adapters, [0.5, -2.0], tmp_path / "sum")
    second = change(adapters[1], matrix) if "q_proj" in name else 0
    torch.testing.assert_close(
        change(tmp_path / "sum", matrix), 0.5 * change(adapters[0], matrix) - 2.0 * second, atol=1e-5, rtol=1e-4
    )
    assert json.loads((tmp_path / "sum" / lora.CONFIG).read_text())["r"] == 6


def test_other_bases_and_counts_are_refused(adapters: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CombineError, match="2 adapters need as many weights, not 1"):
        add(adapters, [1.0], tmp_path / "sum")
    other = tmp_path / "other"
    save_adapter(other, target_modules=ALL)
    settings = json.loads((other / lora.CONFIG).read_text())
    (other / lora.CONFIG).write_text(json.dumps(settings | {lora.BASE: "ab" * 32}))
    with pytest.raises(CombineError, match="different bases: None and abab"):
        add([adapters[0], other], [1.0, 1.0], tmp_path / "sum")


def test_what_is_no_plain_lora_is_refused(adapters: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CombineError, match="none is no adapter"):
        add([tmp_path / "none"], [1.0], tmp_path / "sum")
    dora = save_adapter(tmp_path / "dora", target_modules=ALL, r=4, lora_alpha=8, use_dora=True)
    with pytest.raises(CombineError, match=r"dora holds .*lora_magnitude_vector.*, which is no LoRA weight"):
        add([adapters[0], dora], [1.0, 1.0], tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def box(label: str, x: float, score: float, width: float = 10.0) -> Box:
    return Box(label=label, box=(x, 0.0, x + width, 10.0), score=score)


def test_boxes_of_one_thing_become_their_weighted_mean() -> None:
    fused = fuse([[box("cat", 0, 0.8)], [box("cat", 1, 0.4), box("dog", 1, 0.3)]])
    assert [b.label for b in fused] == ["cat", "dog"]
    assert fused[0].box[0] == pytest.approx((0 * 0.8 + 1 * 0.4) / 1.2)
    assert fused[0].score == pytest.approx(0.6)
    assert fused[1].score == pytest.approx(0.15)  # one of two says so


def test_boxes_apart_stay_two_things() -> None:
    assert len(fuse([[box("cat", 0, 0.8)], [box("cat", 8, 0.7)]])) == 2


def test_trust_weighs_a_model() -> None:
    fused = fuse([[box("cat", 0, 0.8)], [box("cat", 1, 0.8)]], weights=[3.0, 1.0])
    assert fused[0].box[0] == pytest.approx(0.25)
    with pytest.raises(CombineError, match="2 answers need as many weights, not 1"):
        fuse([[], []], weights=[1.0])
    with pytest.raises(CombineError, match="a weight is above 0, not 0"):
        fuse([[box("cat", 0, 0.8)], []], weights=[1.0, 0.0])


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_only_the_weights_beside_each_other_count(scale: float) -> None:
    both, one = [[box("cat", 0, 0.8)], [box("cat", 1, 0.6)]], [[box("cat", 0, 0.8)], []]
    assert fuse(both, weights=[scale, scale])[0].score == pytest.approx(0.7)  # all say so: nothing is lost
    assert fuse(one, weights=[scale, scale])[0].score == pytest.approx(0.4)


def test_each_label_by_its_own_model() -> None:
    answers = {"base": [box("cat", 0, 0.9), box("dog", 20, 0.9)], "dogs": [box("dog", 21, 0.5), box("cat", 40, 0.5)]}
    assert route(answers, {"dog": "dogs"}, "base") == [answers["base"][0], answers["dogs"][0]]
    with pytest.raises(CombineError, match="birds did not answer; there are base, dogs"):
        route(answers, {"bird": "birds"}, "base")
