"""Converts weights and configs of the native layout to Microsoft's: the inverse of `checkpoints.conversion`."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BartConfig, Florence2VisionConfig

from server.engine.checkpoints.conversion import TIED_EMBEDDING_KEYS
from server.engine.checkpoints.generation_config import GenerationConfig

_BLOCK_KEYS = (
    (r"\.(conv[12])\.", r".\1.fn.dw."),
    (r"\.(window|channel)_attn\.", r".\1_attn.fn."),
    (r"\.norm2\.", ".ffn.norm."),
    (r"\.ffn\.", ".ffn.fn.net."),
)
PROJECTOR = "model.multi_modal_projector."
LOGITS_BIAS = "language_model.final_logits_bias"


def to_microsoft_key(key: str) -> str:
    """The inverse of `to_native_key`."""
    if key.startswith("model.vision_tower.convs."):
        return key.removeprefix("model.").replace(".conv.", ".proj.")
    if key.startswith("model.vision_tower."):
        key = key.removeprefix("model.")
        if ".norm1." in key:
            return key.replace(".norm1.", ".window_attn.norm." if ".spatial_block." in key else ".channel_attn.norm.")
        for pattern, microsoft in _BLOCK_KEYS:
            if re.search(pattern, key):
                return re.sub(pattern, microsoft, key)
        return key
    if key == PROJECTOR + "image_projection.weight":
        return "image_projection"
    if key.startswith(PROJECTOR):
        return key.removeprefix(PROJECTOR).replace("image_position_embed.", "image_pos_embed.")
    return (
        "language_model.lm_head.weight"
        if key == "lm_head.weight"
        else key.replace("model.language_model.", "language_model.model.", 1)
    )


def to_microsoft_state(state: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """The inverse of `to_native_state`. Cuts the embedding to `vocab_size` rows and adds a zero final_logits_bias."""
    microsoft = {
        to_microsoft_key(k): v.T.contiguous() if k == PROJECTOR + "image_projection.weight" else v
        for k, v in state.items()
    }
    for key in map(to_microsoft_key, TIED_EMBEDDING_KEYS):
        if key in microsoft:
            microsoft[key] = microsoft[key][:vocab_size].clone()
    microsoft[LOGITS_BIAS] = torch.zeros(1, vocab_size)
    return microsoft


def to_microsoft_config(config: Mapping[str, Any], generation: GenerationConfig, vocab_size: int) -> dict[str, Any]:
    """The inverse of `to_native_config`. Microsoft keeps the generation settings in text_config."""
    vision = {k: v for k, v in config["vision_config"].items() if k in Florence2VisionConfig.__annotations__}
    vision |= {
        "model_type": "davit",
        "dim_embed": vision.pop("embed_dim"),
        "visual_temporal_embedding": {
            "type": "COSINE",
            "max_temporal_embeddings": vision.pop("max_temporal_embeddings"),
        },
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.pop("max_position_embeddings")},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }
    settings = {name: getattr(generation, name) for name in GenerationConfig.__slots__}
    text = {k: v for k, v in config["text_config"].items() if k in BartConfig.__annotations__}
    return {
        "model_type": "florence2",
        "architectures": ["Florence2ForConditionalGeneration"],
        "projection_dim": vision["projection_dim"],
        "text_config": text | settings | {"vocab_size": vocab_size},
        "vision_config": vision,
        "vocab_size": vocab_size,
        "is_encoder_decoder": True,
    } | {k: config[k] for k in ("bos_token_id", "pad_token_id", "eos_token_id", "image_token_id") if k in config}
