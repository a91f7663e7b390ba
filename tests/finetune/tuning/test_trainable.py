"""What learns, and what stays as it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from finetune.tuning import pretrained as bases
from finetune.tuning.batches import Lessons
from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.trainable import Learner, targets
from finetune.tuning.trainer import Trainer
from labels.labeled_image import LabeledImage
from server.engine.adapters.errors import AdapterError
from server.engine.adapters.lora import BASE_HASH_KEY, CONFIG_FILE
from server.engine.config import EngineConfig
from server.engine.engine import Engine

CPU = torch.device("cpu")


def trained(
    base: str, examples: list[LabeledImage], steps: int = 3, **settings: Any
) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """After some steps, and all weights as they were."""
    config = TuneConfig(base=base, steps=steps, pictures=2, prompts=2, replay=0, rank=4, alpha=8, **settings)
    trainer = Trainer(config, Accelerator(mixed_precision="no"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    lessons = Lessons(trainer.base.files, examples, ("cat", "dog"), config)
    for step in range(steps):
        trainer.step([lessons[step]], step)
    return trainer, before


def moved(trainer: Trainer, before: dict[str, torch.Tensor]) -> set[str]:
    """Names of weights that are no longer bit-equal."""
    return {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("stages", [0, 2, 4])
def test_frozen_stages_stay_bit_for_bit(base: str, examples: list[LabeledImage], stages: int) -> None:
    trainer, before = trained(base, examples, method=Method.FULL, frozen_stages=stages)
    vision = {n for n in moved(trainer, before) if "vision_tower" in n or "projector" in n}
    seen = {int(n.split(".")[3]) for n in vision if "vision_tower" in n}
    assert seen == set(range(stages, 4))
    assert bool(vision) is (stages < 4)
    assert any("encoder.layers.0.fc1" in n for n in moved(trainer, before))


def test_the_decoder_alone(base: str, examples: list[LabeledImage]) -> None:
    trainer, before = trained(base, examples, method=Method.DECODER)
    changed = moved(trainer, before)
    assert changed
    assert all(name.startswith("model.language_model.decoder.") for name in changed)
    assert not any("embed_tokens" in name for name in changed)


def test_lora_leaves_its_base_and_can_be_turned_off(base: str, examples: list[LabeledImage]) -> None:
    trainer, before = trained(base, examples)
    assert moved(trainer, before)
    assert all(".lora_" in name for name in moved(trainer, before))
    plain = bases.load(trainer.config, CPU).model.eval()
    pixels = torch.rand(1, 3, 64, 64)
    ids = torch.tensor([[0, 9, 10, 2]])
    trainer.model.eval()
    with torch.no_grad():
        image = plain.model.get_image_features(pixels).pooler_output
        on = trainer.model.model.get_image_features(pixels).pooler_output
        with trainer.learner.off():
            off = trainer.model.model.get_image_features(pixels).pooler_output
            states = trainer.model.model.language_model.encoder(input_ids=ids).last_hidden_state
        wanted = plain.model.language_model.encoder(input_ids=ids).last_hidden_state
    assert torch.equal(off, image)
    assert torch.equal(states, wanted)
    assert not torch.equal(on, image)


def test_targets_really_match(base: str) -> None:
    found = bases.load(TuneConfig(base=base), CPU)
    names = targets(found.model, TuneConfig(base=base))
    assert "lm_head" not in names
    assert {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "qkv", "proj"} <= {n.split(".")[-1] for n in names}
    blind = targets(found.model, TuneConfig(base=base, frozen_stages=4))
    assert all(name.startswith("model.language_model.") for name in blind)
    learner = Learner(found, TuneConfig(base=base, frozen_stages=4, rank=2))
    assert len(learner.learned) == 2 * len(blind)  # an A and a B for each, and nothing else


def test_an_adapter_is_saved_with_its_base_and_served(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    trainer, _ = trained(base, examples)
    trainer.learner.save(tmp_path / "a", trainer.average)
    settings = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    assert settings[BASE_HASH_KEY] == trainer.base.sha256
    with Engine.load(EngineConfig(base)) as engine:
        assert engine.load_adapter("a", tmp_path / "a").modules == len(trainer.learner.learned) / 2
    settings[BASE_HASH_KEY] = "0" * 64
    (tmp_path / "a" / CONFIG_FILE).write_text(json.dumps(settings))
    with Engine.load(EngineConfig(base)) as engine, pytest.raises(AdapterError, match=f"0000.*{trainer.base.sha256}"):
        engine.load_adapter("a", tmp_path / "a")


def test_a_whole_checkpoint_is_saved_and_served(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    trainer, _ = trained(base, examples, method=Method.FULL)
    trainer.learner.save(tmp_path / "c", trainer.average)
    name = "model.language_model.decoder.layers.0.fc1.weight"
    kept = bases.load(TuneConfig(base=str(tmp_path / "c")), CPU)
    assert torch.equal(kept.model.state_dict()[name], trainer.average[name].half().float())
    with Engine.load(EngineConfig(str(tmp_path / "c"))) as engine:
        assert engine.checkpoint.sha256 == kept.sha256 != trainer.base.sha256


def test_layers_nearer_the_picture_learn_more_slowly(base: str) -> None:
    config = TuneConfig(base=base, method=Method.FULL, layer_decay=0.5)
    learner = Learner(bases.load(config, CPU), config)
    scales = [
        learner.scale(name)
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
    assert {group["scale"] for group in learner.groups()} >= set(scales)


@pytest.mark.parametrize("method", [Method.LORA, Method.FULL])
def test_the_distance_from_the_base(base: str, examples: list[LabeledImage], method: Method) -> None:
    config = TuneConfig(base=base, method=method, rank=4, alpha=8)
    learner = Learner(bases.load(config, CPU), config)
    assert learner.distance().item() == 0
    with torch.no_grad():
        for parameter in learner.learned.values():
            parameter.add_(0.1)
    if method is Method.FULL:
        wanted = sum(0.01 * p.numel() for p in learner.learned.values()) / 2
    else:
        wanted = 0.0
        for name, b in learner.learned.items():
            if ".lora_B." in name:
                wanted += ((b @ learner.learned[name.replace("lora_B", "lora_A")]) * 2).square().sum().item() / 2
    assert learner.distance().item() == pytest.approx(wanted, rel=1e-3)


def test_it_goes_on_from_an_adapter(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    trainer, _ = trained(base, examples)
    trainer.learner.save(tmp_path / "a", trainer.average)
    settings = trainer.config.model_copy(update={"start": str(tmp_path / "a")})
    again = Learner(bases.load(settings, CPU), settings)
    assert all(torch.equal(parameter, trainer.average[name]) for name, parameter in again.learned.items())
    with pytest.raises(AdapterError, match="has another rank"):
        Learner(bases.load(settings, CPU), settings.model_copy(update={"rank": 2}))
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    (tmp_path / "a" / CONFIG_FILE).write_text(json.dumps(config | {BASE_HASH_KEY: "ff" * 32}))
    with pytest.raises(AdapterError, match=f"ffff.*{trainer.base.sha256}"):
        Learner(bases.load(settings, CPU), settings)
    with pytest.raises(AdapterError, match="pass a folder that PEFT's save_pretrained has written"):
        Learner(bases.load(settings, CPU), settings.model_copy(update={"start": str(tmp_path / "none")}))


def without(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


# PEFT's rank and alpha are 8 where nothing is said. The adapter has rank 4.
@pytest.mark.parametrize(
    ("change", "alpha", "said"),
    [
        (lambda s: without(s, "lora_alpha"), 8, ""),
        (lambda s: without(s, "r"), 4, ""),
        (
            lambda s: s | {"lora_alpha": 16},
            8,
            r"scales model.* by 4, and this run's alpha / rank is 2: set alpha to 16",
        ),
        (lambda s: s | {"lora_alpha": 4, "use_rslora": True}, 8, ""),
        (lambda s: s | {"use_rslora": True}, 8, "set alpha to 16"),
        (lambda s: s | {"alpha_pattern": {"fc1": 2}}, 8, r"scales .*fc1 by 0.5"),
        (lambda s: s | {"r": "four"}, 8, "has the invalid r 'four'"),
        (lambda s: s | {"r": None}, 8, "has the invalid r None"),
        (lambda s: s | {"r": -4}, 8, "has the invalid rank -4"),
        (lambda s: s | {"use_dora": True}, 8, "it sets use_dora"),
        (lambda s: [s], 8, "does not describe LoRA"),
    ],
)
def test_an_adapter_to_go_on_from_is_scaled_as_its_settings_say(
    base: str, examples: list[LabeledImage], tmp_path: Path, change: Any, alpha: int, said: str
) -> None:
    trainer, _ = trained(base, examples, steps=1)
    trainer.learner.save(tmp_path / "a", trainer.average)
    path = tmp_path / "a" / CONFIG_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    settings = trainer.config.model_copy(update={"start": str(tmp_path / "a"), "alpha": alpha})
    if not said:
        again = Learner(bases.load(settings, CPU), settings)
        assert all(torch.equal(parameter, trainer.average[name]) for name, parameter in again.learned.items())
        return
    with pytest.raises(AdapterError, match=said):
        Learner(bases.load(settings, CPU), settings)
