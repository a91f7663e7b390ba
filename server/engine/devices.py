"""Devices, dtypes, and how workers share the cores of a CPU."""

import os

import torch

from server.engine.checkpoints.errors import CheckpointError
from server.engine.model.florence2 import Florence2

SMALL_MODEL_PARAMETERS = 50_000_000  # the seedling has 7 million parameters, Florence-2-base 230 million
MAX_SMALL_MODEL_WORKERS = 4  # they share Python's global interpreter lock


def resolve_device(name: str) -> torch.device:
    """Returns the device `name`, where auto is a GPU if there is one. Raises CheckpointError if it cannot be used."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"the device {name} cannot be used: {error}") from error
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype `name`, where auto depends on the device. Raises CheckpointError for an unknown one."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name == "auto":
        if device.type == "cpu":
            return torch.float32  # on a CPU, only fp32 generates the tokens of transformers' generate
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    if name not in dtypes:
        raise CheckpointError(f"dtype must be auto or one of {', '.join(dtypes)}, not {name}")
    return dtypes[name]


def choose_worker_count(model: Florence2) -> int:
    """Returns the number of workers for the device auto: one, or several for a small model on a CPU.

    A second core hardly speeds up the small matrix products of one request's step, but it can run another request.
    """
    if model.device.type != "cpu" or sum(p.numel() for p in model.parameters()) > SMALL_MODEL_PARAMETERS:
        return 1
    return min(MAX_SMALL_MODEL_WORKERS, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 1


def split_cores(count: int) -> list[list[int]]:
    """Splits the cores of this process into `count` groups of adjacent cores. Raises ValueError when there are too
    few."""
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise ValueError(f"{count} workers need {count} cores, but there are {len(cores)}; list cpu fewer times")
    return [cores[i * len(cores) // count : (i + 1) * len(cores) // count] for i in range(count)]
