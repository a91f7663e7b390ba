"""Adapters that cannot be loaded are rejected with a reason."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from server.engine.adapters.errors import AdapterError
from server.engine.adapters.registry import AdapterRegistry
from server.engine.checkpoints.loading import Checkpoint
from tests.server.engine import reference
from tests.server.engine.adapters.helpers import find_adapter_keys
from tests.server.engine.tiny import create_image, save_adapter


def state_with(**more: torch.Tensor) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        save_file(load_file(path) | {name.replace("__", "."): value for name, value in more.items()}, path)

    return change


def config_with(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


def weights_are(write: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: write(folder / "adapter_model.safetensors") and None


def pickled(value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        torch.save(value, folder / "adapter_model.bin")

    return change


def lora_weight(value: torch.Tensor) -> Callable[[Path], None]:
    """Replaces one half of a LoRA pair."""
    return state_with(base_model__model__model__language_model__encoder__layers__0__fc1__lora_A__weight=value)


class Trap:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("code was run",))


ROOT = "base_model__model__model__language_model__"
INVALID: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "there is no adapter_config.json"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "neither adapter_model.safetensors nor"),
    "no json": (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "not lora": (config_with(peft_type="IA3"), "the only kind of adapter"),
    "dora": (config_with(use_dora=True), "it sets use_dora"),
    "bias": (config_with(bias="all"), "it sets bias"),
    "lora bias": (config_with(lora_bias=True), "it sets lora_bias"),
    "modules to save": (config_with(modules_to_save=["norm1"]), "it sets modules_to_save"),
    "tokens": (config_with(trainable_token_indices=[5]), "it sets trainable_token_indices"),
    "parameters": (config_with(target_parameters=["a"]), "it sets target_parameters"),
    "unknown setting": (config_with(use_tomorrow=True), "it sets use_tomorrow"),
    "pissa": (config_with(init_lora_weights="pissa_niter_4"), "changed its base too"),
    "other base": (config_with(florist_base_sha256="0" * 64), "serve its own base"),
    "rank": (config_with(r=5), r"of shapes .* not \{'A': \(5.0, 32\)"),
    "alpha": (config_with(lora_alpha=float("nan")), "invalid lora_alpha nan"),
    "alphas": (config_with(alpha_pattern={"(": 1}), "lora_alpha"),
    "ranks": (config_with(rank_pattern={"fc1": "x"}), "invalid r 'x'"),
    "dora's weights": (state_with(**{f"{ROOT}a__lora_magnitude_vector": torch.ones(3)}), "it is DoRA"),
    "bias's weights": (state_with(**{f"{ROOT}a__base_layer__bias": torch.ones(3)}), "it trains biases"),
    "a module's weights": (state_with(**{f"{ROOT}a__weight": torch.ones(3)}), "without modules_to_save"),
    "unknown": (state_with(**{f"{ROOT}encoder__layers__9__fc1__lora_A__weight": torch.ones(4, 32)}), "no linear layer"),
    "shape": (lora_weight(torch.ones(4, 33)), "fc1 has LoRA weights of shapes"),
    "not finite": (lora_weight(torch.full((4, 32), torch.inf)), "not finite"),
    "half": (pickled({"base_model.model.model.language_model.encoder.layers.0.fc1.lora_A.weight": torch.ones(4, 32)}),
             r"shapes \{'A': \(4, 32\)\}, not"),
    "nothing": (pickled({}), "it adapts nothing"),
    "no tensors": (pickled({"a": 1}), "must contain only weights"),
    "integers": (pickled({"a": torch.ones(3, dtype=torch.int64)}), "must contain only weights"),
    "trap": (pickled({"a": Trap()}), "cannot be read"),
    "truncated": (weights_are(lambda p: p.write_bytes(p.read_bytes()[:-9])), "it may be truncated"),
    "no file": (weights_are(lambda p: (p.unlink(), p.mkdir())), "neither"),
}  # fmt: skip


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_adapter_is_rejected_and_changes_nothing(
    tiny: Checkpoint, folders: dict[str, Path], tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    change, reason = INVALID[case]
    folder = Path(shutil.copytree(folders["text"], tmp_path / "adapter"))
    adapters = AdapterRegistry([tiny.model], tiny.sha256, 1 << 20)
    adapters.load("before", folder)
    before = find_adapter_keys(tiny)
    change(folder)
    with pytest.raises(AdapterError, match=reason):
        adapters.load("before", folder)
    assert find_adapter_keys(tiny) == before
    assert len(adapters.list_loaded()) == 1
    adapters.unload("before")
    assert "code was run" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"target_modules": ["q_proj", "lm_head"]}, "it adapts lm_head"),
        ({"target_modules": ["q_proj", "shared"]}, "it adapts embeddings"),
        ({"target_modules": ["q_proj", "conv"]}, "it adapts the convolution model.vision_tower"),
        ({"target_modules": ["q_proj"], "use_dora": True}, "it sets use_dora"),
        ({"target_modules": ["q_proj"], "bias": "lora_only"}, "it sets bias"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["row_embeddings"]}, "it sets modules_to_save"),
        ({"target_modules": ["q_proj"], "init_lora_weights": "olora"}, "changed its base too"),
    ],
    ids=str,
)
def test_unsupported_features_of_peft_are_rejected(
    tiny: Checkpoint, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(AdapterError, match=re.escape(reason)):
        AdapterRegistry([tiny.model], tiny.sha256, 1 << 20).load("a", save_adapter(tmp_path / "a", **config))
    assert not find_adapter_keys(tiny)


def test_an_adapter_may_name_the_hash_of_its_base(tiny: Checkpoint, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["text"], tmp_path / "adapter"))
    config_with(florist_base_sha256=tiny.sha256)(folder)
    adapters = AdapterRegistry([tiny.model], tiny.sha256, 1 << 20)
    adapters.load("a", folder)
    adapters.unload("a")
    request = reference.create_request("<OD>", create_image(), beams=1, limit=20)
    assert reference.generate(tiny, request, adapter=folder)  # PEFT ignores the key
