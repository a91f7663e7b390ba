"""LoRA adapters as PEFT saves them: a folder → pairs of low-rank weights that fit the model's layers."""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import regex
import safetensors.torch
import torch
from torch import Tensor

from server.engine.adapters.errors import AdapterError
from server.engine.checkpoints.conversion import to_native_key
from server.engine.model.linear import LoraLinear

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # best first
BASE_HASH_KEY = "florist_base_sha256"  # ours in the config: the hash of the weights that the adapter was trained on
_LORA = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# PEFT's settings that leave an adapter what `LowRank` is, and initialisations that leave its base as it was.
_PLAIN = {
    *(
        "peft_type",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "auto_mapping",
        "task_type",
        "inference_mode",
    ),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "ensure_weight_tying"),
    *("r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout", "init_lora_weights"),
    *("eva_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config"),
}
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
# What a weight's name says it is, where it is no half of a LoRA pair on a matrix layer.
_FAULTS = {
    "lm_head.": "it adapts lm_head, which shares its weights with the embeddings; leave it out of target_modules",
    "lora_embedding_": "it adapts embeddings; leave them out of target_modules",
    "trainable_tokens": "it trains tokens; train it without trainable_token_indices",
    "lora_magnitude_vector": "it is DoRA; train it without use_dora",
    ".bias": "it trains biases; train it with bias none",
}
_PATTERNS, _PATIENCE = 1000, 0.1  # the most patterns of ranks or alphas, and the seconds that one may take


class LoraPair(NamedTuple):
    """`a` [rank, inputs], `b` [outputs, rank], on the CPU and in the type they were saved in; their `scale`."""

    a: Tensor
    b: Tensor
    compute_lora_scale: float


class LoraAdapter(NamedTuple):
    """An adapter: pairs by native module path, and the SHA-256 of the file they came in."""

    pairs: dict[str, LoraPair]
    sha256: str


def read_lora(folder: Path, places: Mapping[str, tuple[LoraLinear, int]], base: str, most: int) -> LoraAdapter:
    """The adapter of a folder. `places`: see `Florence2.adaptable`; `base`: the hash of the model's weights; `most`:
    bytes of its file. Raises AdapterError unless it is plain LoRA on those layers."""
    config = read_lora_config(folder)
    if config.get(BASE_HASH_KEY) not in (None, base):
        raise AdapterError(
            f"it was trained on the weights {config[BASE_HASH_KEY]}, and these are {base}; serve its own base"
        )
    weights, sha256 = _weights(folder, most)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        if why := next((why for part, why in _FAULTS.items() if part in name), None):
            raise AdapterError(why)
        if not (match := _LORA.fullmatch(name)):
            raise AdapterError(f"it holds {name}, which is no LoRA weight; train it without modules_to_save")
        if value.dim() == 4:
            raise AdapterError(f"it adapts the convolution {match[1]}; leave it out of target_modules")
        halves.setdefault(match[1], {})[match[2]] = value
    if not halves:
        raise AdapterError("it adapts nothing: its file of weights is empty; check its target_modules")
    pairs = {}
    for path, own in sorted(halves.items()):  # whatever order the file has, the same fault is named
        # One that was trained on Microsoft's remote code has its names.
        native = path if path in places else to_native_key(f"{path}.weight").removesuffix(".weight")
        if native not in places:
            raise AdapterError(f"this model has no matrix layer {path}; serve the adapter's own base")
        pairs[native] = _pair(config, path, own, *_size(places, native))
    return LoraAdapter(pairs, sha256)


def _size(places: Mapping[str, tuple[LoraLinear, int]], path: str) -> tuple[int, int]:
    """Inputs and outputs of a module, which may be a part of a layer of ours."""
    linear, first = places[path]
    after = [start for layer, start in places.values() if layer is linear and start > first]
    return linear.weight.shape[1], min(after, default=linear.weight.shape[0]) - first


def _pair(config: Mapping[str, Any], path: str, own: Mapping[str, Tensor], inputs: int, outputs: int) -> LoraPair:
    rank = _of(config, "r", "rank_pattern", path)
    found, fits = {half: tuple(own[half].shape) for half in sorted(own)}, {"A": (rank, inputs), "B": (outputs, rank)}
    if found != fits:
        raise AdapterError(f"{path} has LoRA weights of the shapes {found}, not {fits}; serve the adapter's own base")
    return LoraPair(own["A"], own["B"], compute_lora_scale(config, path))


def compute_lora_scale(config: Mapping[str, Any], path: str) -> float:
    """What the product of a module's pair is multiplied by: alpha / rank, or of rank-stabilised LoRA (Kalajdzievski
    2023, arXiv:2312.03732) alpha / √rank. Raises AdapterError."""
    rank, alpha = _of(config, "r", "rank_pattern", path), _of(config, "lora_alpha", "alpha_pattern", path)
    if rank < 0:
        raise AdapterError(f"{CONFIG_FILE} has the rank {rank:g} for {path}, which cannot be; save the adapter again")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of(config: Mapping[str, Any], name: str, patterns: str, path: str) -> float:
    """The rank or alpha of a module as PEFT finds it: of the first pattern that fits the end of its path, or of all."""
    value = config.get(name, 8)
    try:
        given = config.get(patterns) or {}
        if len(given) > _PATTERNS:
            raise TimeoutError
        # A stranger's pattern may take for ever: `regex`, unlike `re`, can be told not to, and lets others run.
        fitting = (
            v for key, v in given.items() if regex.match(rf"(.*\.)?({key})$", path, timeout=_PATIENCE, concurrent=True)
        )
        value = next(fitting, value)
        if value and -math.inf < value < math.inf:
            return float(value)
    except (TypeError, AttributeError, OverflowError, regex.error):
        pass
    except TimeoutError as error:
        raise AdapterError(
            f"{CONFIG_FILE} has a {patterns} that takes too long to match; write a simpler one"
        ) from error
    raise AdapterError(f"{CONFIG_FILE} has {value!r} for the {name} of {path}, which cannot be; save the adapter again")


def read_lora_config(folder: Path) -> dict[str, Any]:
    """What PEFT's file of a folder says. Raises AdapterError unless it is that of a plain LoRA."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise AdapterError(f"there is no {CONFIG_FILE}; name a folder that PEFT's save_pretrained has written")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{CONFIG_FILE} cannot be read ({error}); save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{CONFIG_FILE} is not one of LoRA, the only kind of adapter that is served")
    plain = _PLAIN | {BASE_HASH_KEY} | ({"bias"} if config.get("bias") == "none" else set())
    if odd := sorted(name for name, value in config.items() if value and name not in plain):
        raise AdapterError(
            f"it sets {', '.join(odd)}, and only plain LoRA on matrix layers is served; train it without, or merge it "
            "into its base and serve that"
        )
    if (init := config.get("init_lora_weights")) not in _INITS:
        raise AdapterError(f"its init_lora_weights {init!r} changed its base too; let PEFT convert it to plain LoRA")
    return config


def _weights(folder: Path, most: int) -> tuple[dict[str, Tensor], str]:
    """The tensors by name, and their file's SHA-256. Never runs code that a file holds."""
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise AdapterError(f"there is neither {' nor '.join(WEIGHT_FILES)}; save the adapter again")
    try:
        if (size := path.stat().st_size) > most:
            raise AdapterError(f"{path.name} has {size:,} bytes; at most {most:,} are read (--max-adapter-bytes)")
        data = path.read_bytes()  # once: what is hashed is what is loaded
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load(data)
        else:
            _check_unpacked(data, most)
            weights = torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except Exception as error:  # a broken pickle raises anything
        raise AdapterError(f"{path.name} cannot be read, it may be cut short ({error}); copy it again") from error
    if not isinstance(weights, dict) or not all(
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and value.device.type == "cpu"
        for name, value in weights.items()
    ):
        raise AdapterError(f"{path.name} holds something other than weights by name; save the adapter again")
    return weights, hashlib.sha256(data).hexdigest()


def _check_unpacked(data: bytes, most: int) -> None:
    """What torch saves is a zip file, and one that is not torch's own may unpack to a thousand times its size."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            size = sum(part.file_size for part in file.infolist())
        if size > most:
            raise ValueError(f"it unpacks to {size:,} bytes")
