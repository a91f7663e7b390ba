"""The hash of the model, adapters and project models that answer the prompts of a job."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from server.store import StoreError

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine


def compute_model_hash(engine: "Engine", adapters: Iterable[str] = (), models: Mapping[str, str] | None = None) -> str:
    """Returns the hash of the base model, of the adapters that a recipe names, and of projects' `models` (name →
    SHA-256). Raises StoreError if an adapter is not loaded."""
    loaded = {adapter.name: adapter.sha256 for adapter in engine.list_adapters()}
    names = sorted(set(adapters))
    if missing := [name for name in names if name not in loaded]:
        raise StoreError(f"the recipe needs the adapter {missing[0]}, which is not loaded")
    others = {**{name: loaded[name] for name in names}, **dict(sorted((models or {}).items()))}
    if not others:
        return engine.checkpoint.sha256
    parts = [engine.checkpoint.sha256, *(f"{name}\0{sha256}" for name, sha256 in others.items())]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
