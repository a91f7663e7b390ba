"""The trainable parameters of a run: LoRA, all, or the decoder. The others are frozen and stay bit-identical."""

import json
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.fused_lora import fuse_lora_layers
from finetune.tuning.pretrained import PretrainedModel
from server.engine.adapters.errors import AdapterError
from server.engine.adapters.lora import BASE_HASH_KEY, CONFIG_FILE, WEIGHT_FILES, compute_lora_scale, read_lora_config

_VISION_ENCODER, _PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
_PEFT_PREFIX = "base_model.model."  # of all names in PEFT's files
_DECODER = "model.language_model.decoder."
_STAGE = re.compile(r"model\.vision_tower\.(?:convs|blocks)\.(\d+)\.")
_LAYER = re.compile(r"model\.language_model\.(encoder|decoder)\.layers\.(\d+)\.")


def find_lora_targets(model: nn.Module, config: TuneConfig) -> list[str]:
    """Returns the full names of the modules that LoRA adapts.

    These are the attention and feed-forward layers of the text model and of the DaViT stages that are not frozen. They
    never include lm_head, which shares its weights with the embedding, and no convolutions.
    """
    names = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        if name.startswith((_VISION_ENCODER, _PROJECTOR)) and not _is_trained_vision(name, config):
            continue
        names.append(name)
    return names


def _is_trained_vision(name: str, config: TuneConfig) -> bool:
    """Returns whether a module of the vision encoder or the projector is trained."""
    stage = _STAGE.match(name)
    return config.frozen_stages < 4 and (stage is None or int(stage[1]) >= config.frozen_stages)


class TrainableParameters:
    """A pretrained model and the parameters of it that are trained.

    `parameters`: by native name; LoRA's factors have the name of their module.
    """

    def __init__(self, pretrained: PretrainedModel, config: TuneConfig) -> None:
        self.pretrained, self.config, self.model = pretrained, config, pretrained.model
        self.peft: PeftModel | None = None
        if config.method is Method.LORA:
            torch.manual_seed(config.seed)
            lora_config = LoraConfig(
                r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
                target_modules=find_lora_targets(self.model, config),
            )  # fmt: skip
            with warnings.catch_warnings():  # PEFT 0.21 reads a property that transformers 5 has renamed
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
                self.peft = get_peft_model(self.model, lora_config)
            if next(self.model.parameters()).device.type == "cpu":
                fuse_lora_layers(self.peft)
        else:
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(self._is_trained(name))
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        self.set_training_mode()
        if config.start_adapter:
            self._load_adapter(Path(config.start_adapter))
        self.initial = {} if self.peft else {n: p.detach().clone() for n, p in self.parameters.items()}

    def _load_adapter(self, folder: Path) -> None:
        """Continues from an adapter. Raises AdapterError if its base, rank or scale is different."""
        settings = read_lora_config(folder)
        try:
            weights = load_file(folder / WEIGHT_FILES[0])
        except (OSError, SafetensorError) as error:
            raise AdapterError(f"{folder} is not an adapter to continue from: {error}") from error
        if settings.get(BASE_HASH_KEY) != self.pretrained.sha256:
            raise AdapterError(
                f"{folder} was trained on the weights {settings.get(BASE_HASH_KEY)}, but the weights of this base are "
                f"{self.pretrained.sha256}"
            )
        named = {_PEFT_PREFIX + name.replace(".default.", "."): p for name, p in self.parameters.items()}
        if {n: v.shape for n, v in weights.items()} != {n: p.shape for n, p in named.items()}:
            raise AdapterError(
                f"{folder} has another rank or other modules than the settings of this run: its r is "
                f"{settings.get('r')}"
            )
        own = self.config.lora_alpha / self.config.lora_rank
        for path in {name.removeprefix(_PEFT_PREFIX).partition(".lora_")[0] for name in named}:
            if not math.isclose(scale := compute_lora_scale(settings, path), own, rel_tol=1e-6):
                raise AdapterError(
                    f"{folder} scales {path} by {scale:g}, but lora_alpha / lora_rank of this run is {own:g}: "
                    f"set lora_alpha to {scale * self.config.lora_rank:g}"
                )
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(weights[name])

    def set_training_mode(self) -> None:
        """Sets training mode, except for stages whose features are cached: drop path would change the features."""
        self.model.train()
        encoder, cached = self.model.model.vision_tower, self.config.cached_stages
        for stage in (*encoder.convs[:cached], *encoder.blocks[:cached]):
            stage.eval()

    def _is_trained(self, name: str) -> bool:
        if self.config.method is Method.DECODER:
            return name.startswith(_DECODER)
        if name.startswith((_VISION_ENCODER, _PROJECTOR)):
            return _is_trained_vision(name, self.config)
        return True

    def build_parameter_groups(self) -> list[dict[str, object]]:
        """Returns the optimizer's groups: weight decay only on matrices other than embeddings; `scale` of the rate."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            no_decay = parameter.dim() < 2 or "embed" in name or "shared" in name
            decay = 0.0 if no_decay else self.config.weight_decay
            groups.setdefault((self.compute_rate_scale(name), decay), []).append(parameter)
        return [{"params": ps, "weight_decay": decay, "scale": scale} for (scale, decay), ps in groups.items()]

    def compute_rate_scale(self, name: str) -> float:
        """Returns the factor of a layer's learning rate: `layer_decay` to the number of layers above it.

        Clark et al. 2020 (ELECTRA, arXiv:2003.10555, appendix A), from the decoder's last layer to DaViT's first stage.
        """
        text = self.model.config.text_config
        decoder, encoder = text.decoder_layers, text.encoder_layers
        if layer := _LAYER.search(name):
            above = decoder - 1 - int(layer[2]) if layer[1] == "decoder" else decoder + encoder - 1 - int(layer[2])
        elif stage := _STAGE.search(name):
            above = decoder + encoder + 4 - int(stage[1])
        elif name.startswith(_PROJECTOR) or "shared" in name or "embed" in name:
            above = decoder + encoder
        else:
            above = 0
        return self.config.layer_decay**above

    def compute_distance(self) -> Tensor:
        """Returns half the squared distance of the weights from the base: L2-SP (Li et al. 2018, eq. 2).

        For LoRA this is the norm of B·A·scale, computed by small Gram matrices: |BA|² = Σ (BᵀB) ∘ (AAᵀ).
        """
        total = torch.zeros((), device=next(iter(self.parameters.values())).device)
        if not self.peft:
            for name, parameter in self.parameters.items():
                total = total + (parameter - self.initial[name]).square().sum()
            return total / 2
        scale = self.config.lora_alpha / self.config.lora_rank
        for name, b in self.parameters.items():
            if ".lora_B." in name:
                a = self.parameters[name.replace(".lora_B.", ".lora_A.")]
                total = total + ((b.T @ b) * (a @ a.T)).sum() * scale**2
        return total / 2

    @contextmanager
    def use_base(self) -> Iterator[None]:
        """Restores the base temporarily: disables LoRA, or uses the initial values."""
        if self.peft:
            with self.peft.disable_adapter():
                yield
        else:
            with self.use_values(self.initial):
                yield

    @contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Sets evaluation mode temporarily: no dropout and no drop path."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            if training:
                self.set_training_mode()

    @contextmanager
    def use_values(self, values: dict[str, Tensor]) -> Iterator[None]:
        """Uses other values of the parameters temporarily."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.load_values(values)
        try:
            yield
        finally:
            self.load_values(own)

    def load_values(self, values: dict[str, Tensor]) -> None:
        """Sets the values of the parameters."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(values[name])

    def save(self, folder: Path, values: dict[str, Tensor]) -> None:
        """Writes a PEFT adapter with the hash of its base, or a checkpoint, with these values of the parameters."""
        with self.use_values(values):
            if self.peft is None:
                self.pretrained.save(folder, dict(self.model.state_dict()))
                return
            self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        settings = json.loads((folder / CONFIG_FILE).read_text())
        # By names alone the adapter could be loaded into another base of the same shape.
        settings[BASE_HASH_KEY] = self.pretrained.sha256
        (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
