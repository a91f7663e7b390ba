"""What of a model learns, and how fast: LoRA, everything, or the decoder; the rest is frozen, and stays bit for bit."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.fused_lora import fuse
from finetune.tuning.pretrained import Base
from server.engine.adapters import lora

_TOWER, _PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
_PEFT = "base_model.model."  # before every name in a file of PEFT's
_DECODER = "model.language_model.decoder."
_STAGE = re.compile(r"model\.vision_tower\.(?:convs|blocks)\.(\d+)\.")
_LAYER = re.compile(r"model\.language_model\.(encoder|decoder)\.layers\.(\d+)\.")


def targets(model: nn.Module, config: TuneConfig) -> list[str]:
    """The matrices that LoRA adapts, by their whole names: attention and feed-forward of the text model, and of those
    DaViT stages that learn. Never lm_head, which is the embedding table under another name, and no convolution."""
    names = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name == "lm_head":
            continue
        if name.startswith((_TOWER, _PROJECTOR)) and not _vision(name, config):
            continue
        names.append(name)
    return names


def _vision(name: str, config: TuneConfig) -> bool:
    """Whether this part of the vision learns."""
    stage = _STAGE.match(name)
    return config.frozen_stages < 4 and (stage is None or int(stage[1]) >= config.frozen_stages)


class Learner:
    """A base with what of it learns. `learned`: those parameters by native name (LoRA's halves under their module)."""

    def __init__(self, base: Base, config: TuneConfig) -> None:
        self.base, self.config, self.model = base, config, base.model
        self.peft: PeftModel | None = None
        if config.method is Method.LORA:
            torch.manual_seed(config.seed)
            settings = LoraConfig(
                r=config.rank, lora_alpha=config.alpha, lora_dropout=config.lora_dropout,
                target_modules=targets(base.model, config),
            )  # fmt: skip
            self.peft = get_peft_model(base.model, settings)
            if next(base.model.parameters()).device.type == "cpu":
                fuse(self.peft)
        else:
            for name, parameter in base.model.named_parameters():
                parameter.requires_grad_(self._learns(name))
        self.learned = {n: p for n, p in base.model.named_parameters() if p.requires_grad}
        self.teach()
        if config.start:
            self._go_on(Path(config.start))
        self.start = {} if self.peft else {n: p.detach().clone() for n, p in self.learned.items()}

    def _go_on(self, folder: Path) -> None:
        """From what an adapter has learned. Raises AdapterError for one of another base, rank or scale."""
        settings = lora.settings(folder)
        try:
            weights = load_file(folder / lora.WEIGHTS[0])
        except (OSError, SafetensorError) as error:
            raise lora.AdapterError(f"{folder} is no adapter to go on from: {error}") from error
        if settings.get(lora.BASE) != self.base.sha256:
            raise lora.AdapterError(
                f"{folder} was trained on the weights {settings.get(lora.BASE)}, and these are {self.base.sha256}"
            )
        named = {_PEFT + name.replace(".default.", "."): parameter for name, parameter in self.learned.items()}
        if {n: v.shape for n, v in weights.items()} != {n: p.shape for n, p in named.items()}:
            raise lora.AdapterError(
                f"{folder} has another rank or other matrices than this run's settings: it says r: {settings.get('r')}"
            )
        own = self.config.alpha / self.config.rank
        for path in {name.removeprefix(_PEFT).partition(".lora_")[0] for name in named}:
            if not math.isclose(scale := lora.scale(settings, path), own, rel_tol=1e-6):
                raise lora.AdapterError(
                    f"{folder} scales {path} by {scale:g}, and this run's alpha / rank is {own:g}: "
                    f"set alpha to {scale * self.config.rank:g}"
                )
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(weights[name])

    def teach(self) -> None:
        """Into training mode; stages whose features are kept stay out of it: drop path would change them."""
        self.model.train()
        tower = self.model.model.vision_tower
        for stage in (*tower.convs[: self.config.kept_stages], *tower.blocks[: self.config.kept_stages]):
            stage.eval()

    def _learns(self, name: str) -> bool:
        if self.config.method is Method.DECODER:
            return name.startswith(_DECODER)
        if name.startswith((_TOWER, _PROJECTOR)):
            return _vision(name, self.config)
        return True

    def groups(self) -> list[dict[str, object]]:
        """The optimizer's: weight decay on matrices but for embeddings; `scale`: a layer's share of the rate."""
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.learned.items():
            plain = parameter.dim() < 2 or "embed" in name or "shared" in name
            decay = 0.0 if plain else self.config.weight_decay
            groups.setdefault((self.scale(name), decay), []).append(parameter)
        return [{"params": ps, "weight_decay": decay, "scale": scale} for (scale, decay), ps in groups.items()]

    def scale(self, name: str) -> float:
        """A layer's share of the learning rate: `layer_decay` to the number of layers above it (Clark et al. 2020,
        ELECTRA, arXiv:2003.10555, appendix A), from the decoder's last down to DaViT's first stage."""
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

    def distance(self) -> Tensor:
        """Half the squared distance of the weights from the base's: L2-SP (Li et al. 2018, eq. 2). Of LoRA the norm of
        B·A·scale, by way of its small Gram matrices: |BA|² = Σ (BᵀB) ∘ (AAᵀ)."""
        total = torch.zeros((), device=next(iter(self.learned.values())).device)
        if not self.peft:
            for name, parameter in self.learned.items():
                total = total + (parameter - self.start[name]).square().sum()
            return total / 2
        scale = self.config.alpha / self.config.rank
        for name, b in self.learned.items():
            if ".lora_B." in name:
                a = self.learned[name.replace(".lora_B.", ".lora_A.")]
                total = total + ((b.T @ b) * (a @ a.T)).sum() * scale**2
        return total / 2

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base as it was: LoRA off, or the first values in place of what was learned."""
        if self.peft:
            with self.peft.disable_adapter():
                yield
        else:
            with self.holding(self.start):
                yield

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Out of training mode: no dropout and no drop path."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            if training:
                self.teach()

    @contextmanager
    def holding(self, values: dict[str, Tensor]) -> Iterator[None]:
        """Other values in place of what was learned."""
        own = {name: parameter.detach().clone() for name, parameter in self.learned.items()}
        self.put(values)
        try:
            yield
        finally:
            self.put(own)

    def put(self, values: dict[str, Tensor]) -> None:
        """Other values in place of what was learned, for good."""
        with torch.no_grad():
            for name, parameter in self.learned.items():
                parameter.copy_(values[name])

    def save(self, folder: Path, values: dict[str, Tensor]) -> None:
        """Writes what was learned, with these values: a PEFT folder that names its base by hash, or a checkpoint."""
        with self.holding(values):
            if self.peft is None:
                self.base.save(folder, dict(self.model.state_dict()))
                return
            self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        settings = json.loads((folder / lora.CONFIG).read_text())
        # The names alone would let an adapter be put on another base of the same shape.
        settings[lora.BASE] = self.base.sha256
        (folder / lora.CONFIG).write_text(json.dumps(settings, indent=2))
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
