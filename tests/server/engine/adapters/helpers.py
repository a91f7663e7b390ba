"""Adapters of the tiny model."""

from typing import Any

from server.engine.checkpoints.loading import Checkpoint
from server.engine.model.linear import LoraLinear

TIMEOUT = 60.0  # seconds
_TEXT = r"model\.language_model\..*(q_proj|v_proj|fc1|fc2)"
_EVERY_LINEAR = r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2|qkv|proj|image_projection)"
_RANKS = {"rank_pattern": {"fc1": 6, r"encoder\.layers\.0\..*q_proj": 2}, "alpha_pattern": {"fc2": 24, "qkv": 3}}
CONFIGS: dict[str, dict[str, Any]] = {
    "text": {"target_modules": _TEXT},
    "all": {"target_modules": _EVERY_LINEAR, **_RANKS},
    "stabilized": {"target_modules": ["k_proj", "out_proj", "qkv"], "r": 8, "use_rslora": True},
}


def find_adapter_keys(checkpoint: Checkpoint) -> set[str]:
    """Returns the keys of the adapters in the layers of the model."""
    layers = [module for module in checkpoint.model.modules() if isinstance(module, LoraLinear)]
    return {key for layer in layers for key in layer.deltas}
