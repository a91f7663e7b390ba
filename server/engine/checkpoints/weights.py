"""A folder's weight files → tensors by name, and a name for exactly these weights."""

import hashlib
import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from server.engine.checkpoints.errors import CheckpointError

# The files that hold weights, best first; an index names the shards.
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def find_weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder. Raises CheckpointError when there are none, or a shard is missing."""
    found = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if found is None:
        raise CheckpointError(f"{folder} holds no weights: it needs one of {', '.join(_FILES)}")
    if found.suffix != ".json":
        return [found]
    try:
        # Names only: an index may not lead out of its folder.
        shards = sorted({Path(shard).name for shard in json.loads(found.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{found} is no index of shards ({error}); fetch it again") from error
    if missing := [shard for shard in shards if not (folder / shard).exists()]:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}, which {found.name} names; fetch them again")
    return [folder / shard for shard in shards]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors, on the CPU and in the type they were saved in. Never runs code that a file holds."""
    state: dict[str, Tensor] = {}
    for path in find_weight_files(folder):
        try:
            part = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read, it may be cut short ({error}); fetch it again") from error
        if not isinstance(part, dict) or not all(isinstance(value, Tensor) for value in part.values()):
            raise CheckpointError(f"{path} holds something other than weights by name")
        state |= part
    return state


def hash_weights(folder: Path) -> str:
    """The hash of the weight files' bytes, in hexadecimal: the same for the same weights wherever they lie."""
    total = hashlib.sha256()
    for path in find_weight_files(folder):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
