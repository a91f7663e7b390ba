"""The pretrained model that a run starts from, as transformers' model in training mode."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Florence2ForConditionalGeneration

from finetune.attention import select_cpu_attention
from finetune.tuning.config import TuneConfig
from server.engine.checkpoints import conversion
from server.engine.checkpoints.loading import CheckpointFiles, read_checkpoint
from server.engine.checkpoints.weights import hash_weights

_OTHER_FILES = (  # copied into a saved checkpoint if the base has them
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("added_tokens.json", "preprocessor_config.json", "processor_config.json", "generation_config.json"),
)


@dataclass(frozen=True, slots=True)
class PretrainedModel:
    """`model` is in fp32, in training mode; `sha256`: the hash of its weight files."""

    files: CheckpointFiles
    model: Florence2ForConditionalGeneration
    sha256: str

    @property
    def first_location(self) -> int:
        """The ID of `<loc_0>`."""
        return self.files.tokenizer.first_location_id

    @property
    def pad(self) -> int:
        """The ID of the padding token."""
        return int(self.model.config.text_config.pad_token_id)

    def save(self, folder: Path, state: dict[str, Tensor]) -> None:
        """Writes a complete checkpoint in fp16, which florist and transformers can load. `state`: native weights."""
        folder.mkdir(parents=True, exist_ok=True)
        half = {k: v.detach().half() if v.is_floating_point() else v for k, v in state.items()}
        self.model.save_pretrained(folder, state_dict=half)
        for name in _OTHER_FILES:
            if (self.files.folder / name).is_file():
                shutil.copyfile(self.files.folder / name, folder / name)
        if conversion.is_microsoft_config(json.loads((self.files.folder / "config.json").read_text())):
            # Microsoft's tokenizer files lack the tokens that its code adds; the native layout contains them.
            self.files.tokenizer.backend.save(str(folder / "tokenizer.json"))


def load_pretrained(config: TuneConfig, device: torch.device) -> PretrainedModel:
    """Loads the base. Raises CheckpointError."""
    files = read_checkpoint(config.base)
    model_config = files.config
    text, vision = model_config.text_config, model_config.vision_config
    text.dropout = text.attention_dropout = text.activation_dropout = config.dropout
    vision.drop_path_rate = config.drop_path
    model = Florence2ForConditionalGeneration._from_config(
        model_config,
        attn_implementation=select_cpu_attention() if device.type == "cpu" else "sdpa",
        dtype=torch.float32,
    )
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in files.state.items()}, strict=False)
    model.tie_weights()
    model.name_or_path = config.base  # PEFT writes it into an adapter's configuration
    return PretrainedModel(files, model.to(device).train(), hash_weights(files.folder))
