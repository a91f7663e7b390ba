"""Conversion of weights and configs from Microsoft's remote-code layout to transformers' native layout.

Source: the checkpoints microsoft/Florence-2-* and transformers' `Florence2ForConditionalGeneration`.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import BartConfig, Florence2VisionConfig

# Keys inside DaViT blocks: Microsoft's pattern → native replacement. The first pattern that matches is applied.
_BLOCK_KEYS = (
    (r"\.(conv[12])\.fn\.dw\.", r".\1."),
    (r"\.(window|channel)_attn\.norm\.", r".norm1."),
    (r"\.(window|channel)_attn\.fn\.", r".\1_attn."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.ffn\.fn\.net\.", ".ffn."),
)
_PROJECTOR = "model.multi_modal_projector."
_LOGITS_BIAS = "language_model.final_logits_bias"
EMBEDDING_KEY = "model.language_model.shared.weight"
# All keys of the one token embedding. A file may contain any of them.
TIED_EMBEDDING_KEYS = (
    EMBEDDING_KEY,
    "model.language_model.encoder.embed_tokens.weight",
    "model.language_model.decoder.embed_tokens.weight",
    "lm_head.weight",
)


def is_microsoft_layout(keys: Mapping[str, Any]) -> bool:
    """Returns whether weights have Microsoft's layout."""
    return any(key.startswith(("language_model.", "vision_tower.")) for key in keys)


def to_native_key(key: str) -> str:
    """Converts a key of Microsoft's layout. Returns an unknown key unchanged."""
    if key.startswith("vision_tower.convs."):
        return "model." + key.replace(".proj.", ".conv.")
    if key.startswith("vision_tower."):
        for pattern, native in _BLOCK_KEYS:
            if re.search(pattern, key):
                return "model." + re.sub(pattern, native, key)
        return "model." + key
    if key == "image_projection":
        return _PROJECTOR + "image_projection.weight"
    if key.startswith("image_pos_embed."):
        return _PROJECTOR + key.replace("image_pos_embed.", "image_position_embed.")
    if key.startswith(("image_proj_norm.", "visual_temporal_embed.")):
        return _PROJECTOR + key
    if key.startswith("language_model.model."):
        return key.replace("language_model.model.", "model.language_model.", 1)
    return "lm_head.weight" if key == "language_model.lm_head.weight" else key


def to_native_state(state: Mapping[str, Tensor], vocab_size: int) -> dict[str, Tensor]:
    """Converts weights of Microsoft's layout. Pads the embedding to `vocab_size` rows, because it lacks `<image>`.

    Raises ValueError when final_logits_bias is not zero, because the native model has no such bias.
    """
    if (bias := state.get(_LOGITS_BIAS)) is not None and bool((bias != 0).any()):
        raise ValueError(
            f"{_LOGITS_BIAS} is not zero, but the native model has no such bias: florist cannot load it exactly"
        )
    native = {
        to_native_key(k): v.T.contiguous() if k == "image_projection" else v
        for k, v in state.items()
        if k != _LOGITS_BIAS
    }
    for key in TIED_EMBEDDING_KEYS:
        if key in native and native[key].dim() == 2 and (missing := vocab_size - native[key].shape[0]) > 0:
            table = native[key]
            native[key] = torch.cat([table, table.new_zeros(missing, table.shape[1])])
    return native


def is_microsoft_config(config: Mapping[str, Any]) -> bool:
    """Returns whether a config.json has Microsoft's layout."""
    vision = config.get("vision_config") or {}
    return "dim_embed" in vision or vision.get("model_type") == "davit"


def to_native_config(config: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Converts a config.json of Microsoft's layout, for an embedding of `vocab_size` rows.

    Raises ValueError for unsupported settings and KeyError for missing ones.
    """
    source_vision, text = dict(config["vision_config"]), dict(config["text_config"])
    pooling = source_vision.get("image_feature_source", ["spatial_avg_pool", "temporal_avg_pool"])
    if list(pooling) != ["spatial_avg_pool", "temporal_avg_pool"]:
        raise ValueError(f"image_feature_source is {pooling}; only spatial_avg_pool, temporal_avg_pool is supported")
    if unsupported := [k for k in ("normalize_before", "add_final_layer_norm", "scale_embedding") if text.get(k)]:
        raise ValueError(f"text_config sets {', '.join(unsupported)}, which the native model does not support")
    vision = {k: v for k, v in source_vision.items() if k in _get_own_fields(Florence2VisionConfig)}
    vision |= {
        "model_type": "florence_vision",
        "embed_dim": source_vision["dim_embed"],
        "max_temporal_embeddings": source_vision["visual_temporal_embedding"]["max_temporal_embeddings"],
        "max_position_embeddings": source_vision["image_pos_embed"]["max_pos_embeddings"],
    }
    bart = {k: v for k, v in text.items() if k in _get_own_fields(BartConfig)}
    return {
        "model_type": "florence2",
        "text_config": bart | {"model_type": "bart", "vocab_size": vocab_size},
        "vision_config": vision,
        "is_encoder_decoder": True,
        "tie_word_embeddings": True,
    } | {k: config[k] for k in ("bos_token_id", "pad_token_id", "eos_token_id", "image_token_id") if k in config}


def _get_own_fields(config: type) -> set[str]:
    """Returns the settings that a config class declares itself, without the inherited ones."""
    return set(config.__annotations__)
