"""Which parameters are trained, and how they are saved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from finetune.tuning.batches import TrainingBatches
from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.pretrained import load_pretrained
from finetune.tuning.trainable import TrainableParameters, find_lora_targets
from finetune.tuning.trainer import Trainer
from labels.labeled_image import LabeledImage
from server.engine.adapters.errors import AdapterError
from server.engine.adapters.lora import BASE_HASH_KEY, CONFIG_FILE
from server.engine.config import EngineConfig
from server.engine.engine import Engine

CPU = torch.device("cpu")


def train(
    base: str, images: list[LabeledImage], steps: int = 3, **settings: Any
) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """Trains some steps; returns the trainer and the weights before."""
    config = TuneConfig(
        base=base, steps=steps, batch_size=2, prompts_per_image=2, replay_share=0, lora_rank=4, lora_alpha=8, **settings
    )
    trainer = Trainer(config, Accelerator(mixed_precision="no"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    batches = TrainingBatches(trainer.pretrained.files, images, ("cat", "dog"), config)
    for step in range(steps):
        trainer.step([batches[step]], step)
    return trainer, before


def find_changed(trainer: Trainer, before: dict[str, torch.Tensor]) -> set[str]:
    """Returns the names of the weights that are not bit-identical."""
    return {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("stages", [0, 2, 4])
def test_frozen_stages_stay_bit_for_bit(base: str, images: list[LabeledImage], stages: int) -> None:
    trainer, before = train(base, images, method=Method.FULL, frozen_stages=stages)
    vision = {n for n in find_changed(trainer, before) if "vision_tower" in n or "projector" in n}
    changed_stages = {int(n.split(".")[3]) for n in vision if "vision_tower" in n}
    assert changed_stages == set(range(stages, 4))
    assert bool(vision) is (stages < 4)
    assert any("encoder.layers.0.fc1" in n for n in find_changed(trainer, before))


def test_the_method_decoder_trains_only_the_decoder(base: str, images: list[LabeledImage]) -> None:
    trainer, before = train(base, images, method=Method.DECODER)
    changed = find_changed(trainer, before)
    assert changed
    assert all(name.startswith("model.language_model.decoder.") for name in changed)
    assert not any("embed_tokens" in name for name in changed)


def test_lora_keeps_the_base_and_can_be_disabled(base: str, images: list[LabeledImage]) -> None:
    trainer, before = train(base, images)
    assert find_changed(trainer, before)
    assert all(".lora_" in name for name in find_changed(trainer, before))
    plain = load_pretrained(trainer.config, CPU).model.eval()
    pixels = torch.rand(1, 3, 64, 64)
    ids = torch.tensor([[0, 9, 10, 2]])
    trainer.model.eval()
    with torch.no_grad():
        image = plain.model.get_image_features(pixels).pooler_output
        adapted = trainer.model.model.get_image_features(pixels).pooler_output
        with trainer.trainable.use_base():
            disabled = trainer.model.model.get_image_features(pixels).pooler_output
            states = trainer.model.model.language_model.encoder(input_ids=ids).last_hidden_state
        expected = plain.model.language_model.encoder(input_ids=ids).last_hidden_state
    assert torch.equal(disabled, image)
    assert torch.equal(states, expected)
    assert not torch.equal(adapted, image)


def test_lora_adapts_all_targets(base: str) -> None:
    pretrained = load_pretrained(TuneConfig(base=base), CPU)
    names = find_lora_targets(pretrained.model, TuneConfig(base=base))
    assert "lm_head" not in names
    assert {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "qkv", "proj"} <= {n.split(".")[-1] for n in names}
    text_only = find_lora_targets(pretrained.model, TuneConfig(base=base, frozen_stages=4))
    assert all(name.startswith("model.language_model.") for name in text_only)
    trainable = TrainableParameters(pretrained, TuneConfig(base=base, frozen_stages=4, lora_rank=2))
    assert len(trainable.parameters) == 2 * len(text_only)  # an A and a B for each


def test_an_adapter_is_saved_with_the_hash_of_its_base(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    trainer, _ = train(base, images)
    trainer.trainable.save(tmp_path / "a", trainer.average)
    settings = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    assert settings[BASE_HASH_KEY] == trainer.pretrained.sha256
    with Engine.load(EngineConfig(base)) as engine:
        assert engine.load_adapter("a", tmp_path / "a").modules == len(trainer.trainable.parameters) / 2
    settings[BASE_HASH_KEY] = "0" * 64
    (tmp_path / "a" / CONFIG_FILE).write_text(json.dumps(settings))
    with (
        Engine.load(EngineConfig(base)) as engine,
        pytest.raises(AdapterError, match=f"0000.*{trainer.pretrained.sha256}"),
    ):
        engine.load_adapter("a", tmp_path / "a")


def test_a_complete_checkpoint_is_saved(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    trainer, _ = train(base, images, method=Method.FULL)
    trainer.trainable.save(tmp_path / "c", trainer.average)
    name = "model.language_model.decoder.layers.0.fc1.weight"
    saved = load_pretrained(TuneConfig(base=str(tmp_path / "c")), CPU)
    assert torch.equal(saved.model.state_dict()[name], trainer.average[name].half().float())
    with Engine.load(EngineConfig(str(tmp_path / "c"))) as engine:
        assert engine.checkpoint.sha256 == saved.sha256 != trainer.pretrained.sha256


def test_layers_near_the_image_have_lower_learning_rates(base: str) -> None:
    config = TuneConfig(base=base, method=Method.FULL, layer_decay=0.5)
    trainable = TrainableParameters(load_pretrained(config, CPU), config)
    scales = [
        trainable.compute_rate_scale(name)
        for name in (
            "model.language_model.decoder.layers.1.fc1.weight",
            "model.language_model.decoder.layers.0.fc1.weight",
            "model.language_model.encoder.layers.1.fc1.weight",
            "model.language_model.encoder.layers.0.fc1.weight",
            "model.multi_modal_projector.image_projection.weight",
            "model.language_model.encoder.layernorm_embedding.weight",
            "model.vision_tower.blocks.3.0.channel_block.ffn.fc1.weight",
            "model.vision_tower.convs.0.conv.weight",
        )
    ]
    assert scales == [0.5**n for n in (0, 1, 2, 3, 4, 4, 5, 8)]
    assert {group["scale"] for group in trainable.build_parameter_groups()} >= set(scales)


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_distance_from_the_base_is_exact(base: str, images: list[LabeledImage], method: Method) -> None:
    config = TuneConfig(base=base, method=method, lora_rank=4, lora_alpha=8)
    trainable = TrainableParameters(load_pretrained(config, CPU), config)
    assert trainable.compute_distance().item() == 0
    with torch.no_grad():
        for parameter in trainable.parameters.values():
            parameter.add_(0.1)
    if method is Method.FULL:
        expected = sum(0.01 * p.numel() for p in trainable.parameters.values()) / 2
    else:
        expected = 0.0
        for name, b in trainable.parameters.items():
            if ".lora_B." in name:
                expected += ((b @ trainable.parameters[name.replace("lora_B", "lora_A")]) * 2).square().sum().item() / 2
    assert trainable.compute_distance().item() == pytest.approx(expected, rel=1e-3)


def test_training_continues_from_an_adapter(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    trainer, _ = train(base, images)
    trainer.trainable.save(tmp_path / "a", trainer.average)
    settings = trainer.config.model_copy(update={"start_adapter": str(tmp_path / "a")})
    continued = TrainableParameters(load_pretrained(settings, CPU), settings)
    assert all(torch.equal(parameter, trainer.average[name]) for name, parameter in continued.parameters.items())
    with pytest.raises(AdapterError, match="has another rank"):
        TrainableParameters(load_pretrained(settings, CPU), settings.model_copy(update={"lora_rank": 2}))
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    (tmp_path / "a" / CONFIG_FILE).write_text(json.dumps(config | {BASE_HASH_KEY: "ff" * 32}))
    with pytest.raises(AdapterError, match=f"ffff.*{trainer.pretrained.sha256}"):
        TrainableParameters(load_pretrained(settings, CPU), settings)
    with pytest.raises(AdapterError, match="pass a folder that PEFT's save_pretrained has written"):
        TrainableParameters(
            load_pretrained(settings, CPU), settings.model_copy(update={"start_adapter": str(tmp_path / "none")})
        )


def remove(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


# PEFT's default rank and alpha are 8. The adapter has rank 4.
@pytest.mark.parametrize(
    ("change", "alpha", "message"),
    [
        (lambda s: remove(s, "lora_alpha"), 8, ""),
        (lambda s: remove(s, "r"), 4, ""),
        (
            lambda s: s | {"lora_alpha": 16},
            8,
            r"scales model.* by 4, but lora_alpha / lora_rank of this run is 2: set lora_alpha to 16",
        ),
        (lambda s: s | {"lora_alpha": 4, "use_rslora": True}, 8, ""),
        (lambda s: s | {"use_rslora": True}, 8, "set lora_alpha to 16"),
        (lambda s: s | {"alpha_pattern": {"fc1": 2}}, 8, r"scales .*fc1 by 0.5"),
        (lambda s: s | {"r": "four"}, 8, "has the invalid r 'four'"),
        (lambda s: s | {"r": None}, 8, "has the invalid r None"),
        (lambda s: s | {"r": -4}, 8, "has the invalid rank -4"),
        (lambda s: s | {"use_dora": True}, 8, "it sets use_dora"),
        (lambda s: [s], 8, "does not describe LoRA"),
    ],
)
def test_the_scale_of_the_start_adapter_must_match(
    base: str, images: list[LabeledImage], tmp_path: Path, change: Any, alpha: int, message: str
) -> None:
    trainer, _ = train(base, images, steps=1)
    trainer.trainable.save(tmp_path / "a", trainer.average)
    path = tmp_path / "a" / CONFIG_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    settings = trainer.config.model_copy(update={"start_adapter": str(tmp_path / "a"), "lora_alpha": alpha})
    if not message:
        continued = TrainableParameters(load_pretrained(settings, CPU), settings)
        assert all(torch.equal(parameter, trainer.average[name]) for name, parameter in continued.parameters.items())
        return
    with pytest.raises(AdapterError, match=message):
        TrainableParameters(load_pretrained(settings, CPU), settings)
