"""Which checkpoints are on this machine."""

import re
from dataclasses import dataclass

from huggingface_hub import constants, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from server.engine.checkpoints.sources import SEEDLING_FOLDER

_SEEDLING = SEEDLING_FOLDER / "model.safetensors"
_PUBLISHED = (
    ("florence-community", "native layout"),
    ("microsoft", "Microsoft's layout"),
)
_NAMES = ("Florence-2-base", "Florence-2-base-ft", "Florence-2-large", "Florence-2-large-ft")


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint that can be named; `here` says whether it is on this machine."""

    name: str
    kind: str
    here: str


def models() -> list[Known]:
    """The published checkpoints, and whatever else in the hub's cache looks like a Florence-2."""
    cached = _cached()
    rows = [Known("seedling", "comes with florist", "yes" if _SEEDLING.exists() else "no")]
    for owner, kind in _PUBLISHED:
        rows += [Known(f"{owner}/{name}", kind, cached.pop(f"{owner}/{name}", "no")) for name in _NAMES]
    return rows + [Known(name, "from the hub", size) for name, size in sorted(cached.items())]


def _cached() -> dict[str, str]:
    """Florence-2 checkpoints of the hub's cache → what they take on disk."""
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return {}
    found = (repo for repo in repos if repo.repo_type == "model" and re.search("florence", repo.repo_id, re.IGNORECASE))
    return {repo.repo_id: f"yes, {repo.size_on_disk_str}" for repo in found}
