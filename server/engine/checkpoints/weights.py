"""Weight files: the tensors in a folder, and a hash that identifies them."""

import hashlib
import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from server.engine.checkpoints.errors import CheckpointError

# In order of preference. An index lists the shards.
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def find_weight_files(folder: Path) -> list[Path]:
    """Returns the weight files of a checkpoint. Raises CheckpointError when there are none, or a shard is missing."""
    path = next((folder / name for name in _WEIGHT_FILES if (folder / name).exists()), None)
    if path is None:
        raise CheckpointError(f"{folder} contains no weights: it needs one of {', '.join(_WEIGHT_FILES)}")
    if path.suffix != ".json":
        return [path]
    try:
        # Only the file name, so that an index cannot point outside its folder.
        shards = sorted({Path(shard).name for shard in json.loads(path.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not an index of shards ({error}); download it again") from error
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}, listed in {path.name}; download them again")
    return [folder / shard for shard in shards]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Returns all tensors by key, on the CPU and in the dtype of the files. Never runs code from a file.

    Raises CheckpointError when a file is missing or broken.
    """
    state: dict[str, Tensor] = {}
    for path in find_weight_files(folder):
        try:
            part = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read, it may be truncated ({error}); download it again") from error
        if not isinstance(part, dict) or not all(isinstance(value, Tensor) for value in part.values()):
            raise CheckpointError(f"{path} must contain only weights by key")
        state |= part
    return state


def hash_weights(folder: Path) -> str:
    """Returns the SHA-256 of the weight files in hexadecimal. It does not depend on the folder's name."""
    total = hashlib.sha256()
    for path in find_weight_files(folder):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
