"""LoRA arithmetic, box fusion, and routing of classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from finetune.ensembling import CombineError, add_adapters, fuse_boxes, route_classes
from prompts.annotations import Box
from server.engine.adapters.class_list import CLASS_LIST_FILE, read_class_list, write_class_list
from server.engine.adapters.lora import BASE_HASH_KEY, CONFIG_FILE
from tests.server.engine.tiny import create_tiny_model, save_adapter

ALL = ["q_proj", "fc1"]


def compute_change(folder: Path, name: str) -> torch.Tensor:
    """Returns the change of a matrix of the tiny model when PEFT merges an adapter."""
    plain = dict(create_tiny_model().named_parameters())[name].detach()
    merged = PeftModel.from_pretrained(create_tiny_model(), str(folder)).merge_and_unload()
    return dict(merged.named_parameters())[name].detach() - plain


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two adapters with different ranks and alphas; the second does not change fc1."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(folder / "one", seed=1, target_modules=ALL, r=4, lora_alpha=8),
        save_adapter(folder / "two", seed=2, target_modules=["q_proj"], r=2, lora_alpha=6),
    ]


@pytest.mark.parametrize("name", ["self_attn.q_proj", "fc1"])
def test_the_sum_of_adapters_is_exact(adapters: list[Path], tmp_path: Path, name: str) -> None:
    matrix = f"model.language_model.decoder.layers.1.{name}.weight"
    add_adapters(adapters, [0.5, -2.0], tmp_path / "sum")
    second = compute_change(adapters[1], matrix) if "q_proj" in name else 0
    torch.testing.assert_close(
        compute_change(tmp_path / "sum", matrix),
        0.5 * compute_change(adapters[0], matrix) - 2.0 * second,
        atol=1e-5,
        rtol=1e-4,
    )
    assert json.loads((tmp_path / "sum" / CONFIG_FILE).read_text())["r"] == 6


def test_the_sum_has_the_classes_of_all_adapters(adapters: list[Path], tmp_path: Path) -> None:
    folders = [shutil.copytree(adapter, tmp_path / adapter.name) for adapter in adapters]
    add_adapters(folders, [1.0, 1.0], tmp_path / "without")
    assert read_class_list(tmp_path / "without") == ()
    write_class_list(folders[0], ["wren", "robin"])
    write_class_list(folders[1], ["robin", "finch"])
    add_adapters(folders, [1.0, 1.0], tmp_path / "sum")
    assert read_class_list(tmp_path / "sum") == ("wren", "robin", "finch")
    (folders[1] / CLASS_LIST_FILE).write_text("[]")
    with pytest.raises(CombineError, match=CLASS_LIST_FILE):
        add_adapters(folders, [1.0, 1.0], tmp_path / "sum")


def test_different_bases_and_counts_are_refused(adapters: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CombineError, match="2 adapters need as many weights, not 1"):
        add_adapters(adapters, [1.0], tmp_path / "sum")
    other = tmp_path / "other"
    save_adapter(other, target_modules=ALL)
    settings = json.loads((other / CONFIG_FILE).read_text())
    (other / CONFIG_FILE).write_text(json.dumps(settings | {BASE_HASH_KEY: "ab" * 32}))
    with pytest.raises(CombineError, match="different bases: None and abab"):
        add_adapters([adapters[0], other], [1.0, 1.0], tmp_path / "sum")


def test_other_adapters_than_plain_lora_are_refused(adapters: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CombineError, match="none is not an adapter"):
        add_adapters([tmp_path / "none"], [1.0], tmp_path / "sum")
    dora = save_adapter(tmp_path / "dora", target_modules=ALL, r=4, lora_alpha=8, use_dora=True)
    with pytest.raises(CombineError, match=r"dora contains .*lora_magnitude_vector.*, which is not a LoRA weight"):
        add_adapters([adapters[0], dora], [1.0, 1.0], tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def make_box(label: str, x: float, score: float, width: float = 10.0) -> Box:
    return Box(label=label, box=(x, 0.0, x + width, 10.0), score=score)


def test_overlapping_boxes_become_their_weighted_mean() -> None:
    fused = fuse_boxes([[make_box("cat", 0, 0.8)], [make_box("cat", 1, 0.4), make_box("dog", 1, 0.3)]])
    assert [b.label for b in fused] == ["cat", "dog"]
    assert fused[0].box[0] == pytest.approx((0 * 0.8 + 1 * 0.4) / 1.2)
    assert fused[0].score == pytest.approx(0.6)
    assert fused[1].score == pytest.approx(0.15)  # one of two models agrees


def test_separate_boxes_stay_separate() -> None:
    assert len(fuse_boxes([[make_box("cat", 0, 0.8)], [make_box("cat", 8, 0.7)]])) == 2


def test_weights_apply_to_models() -> None:
    fused = fuse_boxes([[make_box("cat", 0, 0.8)], [make_box("cat", 1, 0.8)]], weights=[3.0, 1.0])
    assert fused[0].box[0] == pytest.approx(0.25)
    with pytest.raises(CombineError, match="2 models need as many weights, not 1"):
        fuse_boxes([[], []], weights=[1.0])
    with pytest.raises(CombineError, match="a weight must be above 0, not 0"):
        fuse_boxes([[make_box("cat", 0, 0.8)], []], weights=[1.0, 0.0])


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_only_the_ratio_of_weights_matters(scale: float) -> None:
    both, one = [[make_box("cat", 0, 0.8)], [make_box("cat", 1, 0.6)]], [[make_box("cat", 0, 0.8)], []]
    assert fuse_boxes(both, weights=[scale, scale])[0].score == pytest.approx(0.7)  # all models agree: the score stays
    assert fuse_boxes(one, weights=[scale, scale])[0].score == pytest.approx(0.4)


def test_each_class_comes_from_its_model() -> None:
    answers = {
        "base": [make_box("cat", 0, 0.9), make_box("dog", 20, 0.9)],
        "dogs": [make_box("dog", 21, 0.5), make_box("cat", 40, 0.5)],
    }
    assert route_classes(answers, {"dog": "dogs"}, "base") == [answers["base"][0], answers["dogs"][0]]
    with pytest.raises(CombineError, match="birds did not answer; there are base, dogs"):
        route_classes(answers, {"bird": "birds"}, "base")
