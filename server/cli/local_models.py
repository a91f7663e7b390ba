"""Finds the checkpoints on this machine."""

import re
from dataclasses import dataclass

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from server.engine.checkpoints.sources import SEEDLING_FOLDER

_SEEDLING = SEEDLING_FOLDER / "model.safetensors"
_PUBLISHERS = (
    ("florence-community", "native layout"),
    ("microsoft", "Microsoft's layout"),
)
_NAMES = ("Florence-2-base", "Florence-2-base-ft", "Florence-2-large", "Florence-2-large-ft")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A checkpoint in the list. `local`: yes with its size, or no."""

    name: str
    kind: str
    local: str


def list_models() -> list[ModelEntry]:
    """Returns the published checkpoints, and all others in the cache of the hub that look like a Florence-2."""
    cached = _find_cached()
    entries = [ModelEntry("seedling", "included in florist", "yes" if _SEEDLING.exists() else "no")]
    for publisher, kind in _PUBLISHERS:
        for name in _NAMES:
            entries.append(ModelEntry(f"{publisher}/{name}", kind, cached.pop(f"{publisher}/{name}", "no")))
    return entries + [ModelEntry(name, "from the hub", size) for name, size in sorted(cached.items())]


def _find_cached() -> dict[str, str]:
    """Returns the Florence-2 checkpoints in the cache of the hub, with their size on disk."""
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return {}
    return {
        repo.repo_id: f"yes, {repo.size_on_disk_str}"
        for repo in repos
        if repo.repo_type == "model" and re.search("florence", repo.repo_id, re.IGNORECASE)
    }
