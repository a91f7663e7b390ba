"""Where checkpoints come from: the seedling, a folder on this machine, or the Hugging Face hub.

This module imports no torch, so that the command line can list checkpoints quickly.
"""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from server.engine.checkpoints.errors import CheckpointError

SEEDLING = "seedling"
"""The name of the small model that is part of the florist package."""
SEEDLING_FOLDER = Path(__file__).parent / "seedling"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def make_absolute(name: str) -> str:
    """Returns a name that means the same checkpoint in any working directory: a local folder becomes absolute.

    `seedling` is always the model of the package, even if the working directory has a folder of that name.
    """
    folder = Path(name).expanduser()
    return str(folder.absolute()) if name != SEEDLING and folder.is_dir() else name


def locate_checkpoint(name: str) -> Path:
    """Returns the folder of a checkpoint. Downloads a hub id that is not a local folder.

    Raises CheckpointError when there is no such checkpoint or the hub cannot be reached.
    """
    if name == SEEDLING:
        return SEEDLING_FOLDER
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{name} is a file; pass the folder that contains config.json and tokenizer.json")
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(
            f"there is no folder {name}; pass a folder, a hub id such as microsoft/Florence-2-base, or seedling"
        )
    try:
        snapshot = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=["*/*"]))
        if not any(snapshot.glob("*.safetensors")):
            snapshot = Path(snapshot_download(name, allow_patterns=["*.json", "*.bin"], ignore_patterns=["*/*"]))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{name} is neither a local folder nor a model that is visible on the hub; check the name"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{name} is not a local folder, and the hub cannot be reached ({type(error).__name__}). Go online once to "
            "download it, or copy the model's files into a folder and pass that folder"
        ) from error
    return snapshot
