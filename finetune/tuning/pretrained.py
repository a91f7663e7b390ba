"""The model that a run starts from: transformers' own, whatever layout its checkpoint has, ready to be trained."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Florence2ForConditionalGeneration

from finetune import attention
from finetune.tuning.config import TuneConfig
from server.engine.checkpoints import conversion, loading, weights
from server.engine.checkpoints.loading import Files

_BELONGS = (  # beside weights and config, where a base has them
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"),
)


@dataclass(frozen=True, slots=True)
class Base:
    """`model` is in fp32, in training mode; `sha256`: of its weight files."""

    files: Files
    model: Florence2ForConditionalGeneration
    sha256: str

    @property
    def first_location(self) -> int:
        """The id of `<loc_0>`."""
        return self.files.tokenizer.locations

    @property
    def pad(self) -> int:
        """The id that pads prompts and answers."""
        return int(self.model.config.text_config.pad_token_id)

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Writes a whole checkpoint, in half precision: what florist and transformers load. `state`: native weights."""
        folder.mkdir(parents=True, exist_ok=True)
        own = {k: v.detach().half() if v.is_floating_point() else v for k, v in state.items()}
        self.model.save_pretrained(folder, state_dict=own)
        for name in _BELONGS:
            if (self.files.folder / name).is_file():
                shutil.copyfile(self.files.folder / name, folder / name)
        if conversion.is_microsoft_config(json.loads((self.files.folder / "config.json").read_text())):
            # Microsoft's tokenizer lacks the tokens that its code adds; the native layout has them.
            self.files.tokenizer.backend.save(str(folder / "tokenizer.json"))


def load(config: TuneConfig, device: torch.device) -> Base:
    """Reads the base. Raises CheckpointError."""
    files = loading.read(config.base)
    shape = files.shape
    text, vision = shape.text_config, shape.vision_config
    text.dropout = text.attention_dropout = text.activation_dropout = config.dropout
    vision.drop_path_rate = config.drop_path
    how = attention.best() if device.type == "cpu" else "sdpa"
    model = Florence2ForConditionalGeneration._from_config(shape, attn_implementation=how, dtype=torch.float32)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in files.state.items()}, strict=False)
    model.tie_weights()
    model.name_or_path = config.base  # what PEFT writes into an adapter
    return Base(files, model.to(device).train(), weights.sha256(files.folder))
