"""LoRA adapters in PEFT's format: a folder → pairs of low-rank weights that fit the model's layers."""

import hashlib
import io
import json
import math
import re
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import regex
import safetensors.torch
import torch
from torch import Tensor

from server.engine.adapters.errors import AdapterError
from server.engine.adapters.names import CONFIG_FILE, WEIGHT_FILES
from server.engine.checkpoints.conversion import to_native_key
from server.engine.model.linear import LoraTarget

BASE_HASH_KEY = "florist_base_sha256"
"""The key that florist adds to the config: the SHA-256 of the weights that the adapter was trained on."""

_LORA_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# Settings of PEFT that keep the adapter plain LoRA, and initializations that do not change the base.
_SUPPORTED_SETTINGS = {
    *("peft_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping", "task_type"),
    *("inference_mode", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("ensure_weight_tying", "r", "rank_pattern", "lora_alpha", "alpha_pattern", "use_rslora", "lora_dropout"),
    *("init_lora_weights", "eva_config", "fan_in_fan_out", "megatron_core", "qalora_group_size", "runtime_config"),
}
_SUPPORTED_INITIALIZATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
# Parts of weight keys that are not plain LoRA on a linear layer, and the error for each.
_UNSUPPORTED_KEYS = {
    "lm_head.": "it adapts lm_head, which shares its weights with the embeddings; leave it out of target_modules",
    "lora_embedding_": "it adapts embeddings; leave them out of target_modules",
    "trainable_tokens": "it trains tokens; train it without trainable_token_indices",
    "lora_magnitude_vector": "it is DoRA; train it without use_dora",
    ".bias": "it trains biases; train it with bias none",
}
_DEFAULT_VALUE = 8  # of the rank and of alpha in PEFT
_MAX_PATTERNS, _MAX_PATTERN_LENGTH = 1000, 1000  # of ranks or alphas; characters
_PATTERN_TIMEOUT, _MATCHING_TIMEOUT = 0.1, 2.0  # seconds for one pattern, and for all of an adapter
_MAX_TENSORS_PER_TARGET = 4  # LoRA has two; the others cause an error that names them
_MAX_BYTES_PER_TENSOR = 1024  # of its entry in the header of the file


class LoraPair(NamedTuple):
    """`a` [rank, inputs], `b` [outputs, rank], on the CPU and in the dtype of the file, and their `scale`."""

    a: Tensor
    b: Tensor
    scale: float


class LoraAdapter(NamedTuple):
    """The content of an adapter's folder: pairs by native module path, and the SHA-256 of the weight file."""

    pairs: dict[str, LoraPair]
    sha256: str


def read_lora(folder: Path, targets: Mapping[str, LoraTarget], base_sha256: str, max_bytes: int) -> LoraAdapter:
    """Reads the adapter in a folder. `targets`: the modules that it may adapt, see `Florence2.get_lora_targets`.

    `base_sha256`: the hash of the model's weights. `max_bytes`: the largest weight file. Raises AdapterError unless it
    is plain LoRA on these modules.
    """
    config = read_lora_config(folder)
    if config.get(BASE_HASH_KEY) not in (None, base_sha256):
        raise AdapterError(
            f"it was trained on the weights {config[BASE_HASH_KEY]}, and these are {base_sha256}; serve its own base"
        )
    weights, sha256 = _read_weights(folder, max_bytes, _MAX_TENSORS_PER_TARGET * len(targets))
    deadline = time.monotonic() + _MATCHING_TIMEOUT
    by_module: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        if reason := next((reason for part, reason in _UNSUPPORTED_KEYS.items() if part in key), None):
            raise AdapterError(reason)
        if not (match := _LORA_KEY.fullmatch(key)):
            raise AdapterError(f"it contains {key}, which is not a LoRA weight; train it without modules_to_save")
        if value.dim() == 4:
            raise AdapterError(f"it adapts the convolution {match[1]}; leave it out of target_modules")
        by_module.setdefault(match[1], {})[match[2]] = value
    if not by_module:
        raise AdapterError("it adapts nothing: its weight file is empty; check its target_modules")
    pairs = {}
    for path, halves in sorted(by_module.items()):  # sorted, so that the same file always causes the same error
        # An adapter that was trained on Microsoft's remote code uses Microsoft's names.
        native = path if path in targets else to_native_key(f"{path}.weight").removesuffix(".weight")
        if native not in targets:
            raise AdapterError(f"this model has no linear layer {path}; serve the adapter's own base")
        if native in pairs:
            raise AdapterError(f"it adapts {native} twice, under two names; leave one of them out of target_modules")
        pairs[native] = _build_pair(config, path, halves, *_get_module_size(targets, native), deadline)
    return LoraAdapter(pairs, sha256)


def _get_module_size(targets: Mapping[str, LoraTarget], path: str) -> tuple[int, int]:
    """Returns the numbers of inputs and outputs of a module, which may be a part of a merged layer."""
    layer, first = targets[path]
    next_outputs = [target.first_output for target in targets.values() if target.layer is layer]
    end = min((output for output in next_outputs if output > first), default=layer.weight.shape[0])
    return layer.weight.shape[1], end - first


def _build_pair(
    config: Mapping[str, Any], path: str, halves: Mapping[str, Tensor], inputs: int, outputs: int, deadline: float
) -> LoraPair:
    rank = _find_value(config, "r", "rank_pattern", path, deadline)
    shapes = {half: tuple(halves[half].shape) for half in sorted(halves)}
    expected = {"A": (rank, inputs), "B": (outputs, rank)}
    if shapes != expected:
        raise AdapterError(f"{path} has LoRA weights of shapes {shapes}, not {expected}; serve the adapter's own base")
    return LoraPair(halves["A"], halves["B"], compute_lora_scale(config, path, deadline))


def compute_lora_scale(config: Mapping[str, Any], path: str, deadline: float = math.inf) -> float:
    """Returns the factor of a module's LoRA product: alpha / rank.

    For rank-stabilized LoRA (Kalajdzievski 2023, arXiv:2312.03732): alpha / √rank. Raises AdapterError,
    also once `time.monotonic` exceeds `deadline`.
    """
    rank = _find_value(config, "r", "rank_pattern", path, deadline)
    alpha = _find_value(config, "lora_alpha", "alpha_pattern", path, deadline)
    if rank < 0:
        raise AdapterError(f"{CONFIG_FILE} has the invalid rank {rank:g} for {path}; save the adapter again")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _find_value(config: Mapping[str, Any], name: str, patterns_name: str, path: str, deadline: float) -> float:
    """Returns the rank or alpha of a module, as PEFT does: of the first pattern that matches the end of its path.

    `name`: the setting with the default; `patterns_name`: the setting with the patterns. Raises AdapterError.
    """
    value = config.get(name, _DEFAULT_VALUE)
    try:
        patterns = config.get(patterns_name) or {}
        if len(patterns) > _MAX_PATTERNS or max(map(len, patterns), default=0) > _MAX_PATTERN_LENGTH:
            raise TimeoutError
        # A pattern from an untrusted file may take forever. `regex`, unlike `re`, has a timeout and releases the GIL.
        for pattern, own in patterns.items():
            timeout = min(_PATTERN_TIMEOUT, deadline - time.monotonic())
            if timeout <= 0:
                raise TimeoutError
            if regex.match(rf"(.*\.)?({pattern})$", path, timeout=timeout, concurrent=True):
                value = own
                break
        if value and -math.inf < value < math.inf:
            return float(value)
    except (TypeError, AttributeError, OverflowError, regex.error):
        pass
    except TimeoutError as error:
        raise AdapterError(
            f"{CONFIG_FILE} has a {patterns_name} that takes too long to match; write a simpler one"
        ) from error
    raise AdapterError(f"{CONFIG_FILE} has the invalid {name} {value!r} for {path}; save the adapter again")


def read_lora_config(folder: Path) -> dict[str, Any]:
    """Reads the adapter_config.json of a folder. Raises AdapterError unless it describes plain LoRA."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise AdapterError(f"there is no {CONFIG_FILE}; pass a folder that PEFT's save_pretrained has written")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(config, ensure_ascii=False).encode()  # raises for half a character (a lone surrogate)
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"{CONFIG_FILE} cannot be read ({error}); save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{CONFIG_FILE} does not describe LoRA, the only kind of adapter that florist supports")
    supported = _SUPPORTED_SETTINGS | {BASE_HASH_KEY} | ({"bias"} if config.get("bias") == "none" else set())
    if unsupported := sorted(name for name, value in config.items() if value and name not in supported):
        raise AdapterError(
            f"it sets {', '.join(unsupported)}, but only plain LoRA on linear layers is supported; train it without, "
            "or merge it into its base and serve that"
        )
    if (init := config.get("init_lora_weights")) not in _SUPPORTED_INITIALIZATIONS:
        raise AdapterError(f"its init_lora_weights {init!r} changed its base too; let PEFT convert it to plain LoRA")
    return config


def _read_weights(folder: Path, max_bytes: int, max_tensors: int) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors by key, and the SHA-256 of their file. Never runs code from a file.

    `max_tensors`: the number that the file may have. It limits what is parsed, which costs more than reading weights.
    """
    path = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if path is None:
        raise AdapterError(f"there is neither {' nor '.join(WEIGHT_FILES)}; save the adapter again")
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise AdapterError(f"{path.name} has {size:,} bytes; the limit is {max_bytes:,} (--max-adapter-bytes)")
        data = path.read_bytes()  # read once, so that the hash belongs to what is loaded
    except OSError as error:
        raise AdapterError(f"{path.name} cannot be read: {error.strerror}") from error
    try:
        if path.suffix == ".safetensors":
            _check_header(int.from_bytes(data[:8], "little"), max_tensors)
            weights = safetensors.torch.load(data)
        else:
            _check_archive(data, max_bytes, max_tensors)
            weights = torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything
        raise AdapterError(f"{path.name} cannot be read, it may be truncated ({error}); copy it again") from error
    if not isinstance(weights, dict) or not all(
        isinstance(key, str)
        and key.isascii()
        and isinstance(value, Tensor)
        and value.is_floating_point()
        and value.layout is torch.strided
        and value.device.type == "cpu"
        for key, value in weights.items()
    ):
        raise AdapterError(f"{path.name} must contain only weights by key; save the adapter again")
    return weights, hashlib.sha256(data).hexdigest()


def _check_header(size: int, max_tensors: int) -> None:
    """Raises ValueError for a header of `size` bytes that describes too many tensors."""
    if size > (limit := max_tensors * _MAX_BYTES_PER_TENSOR):
        raise ValueError(f"its header has {size:,} bytes; the limit for this model is {limit:,}")


def _check_archive(data: bytes, max_bytes: int, max_tensors: int) -> None:
    """Raises ValueError for a zip bomb, and for a file that is not the zip file that torch saves."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError("it is not a zip file, as torch saves them since version 1.6")
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        parts = file.infolist()
    if (size := sum(part.file_size for part in parts)) > max_bytes:
        raise ValueError(f"it unpacks to {size:,} bytes")
    if len(parts) > 2 * max_tensors:
        raise ValueError(f"it has {len(parts):,} parts; the limit for this model is {2 * max_tensors:,}")
    _check_header(sum(part.file_size for part in parts if part.filename.endswith(".pkl")), max_tensors)
