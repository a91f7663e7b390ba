"""The name of the model in responses."""

from pathlib import Path


def get_public_name(model: str) -> str:
    """Returns the name of a model as clients see it: of a path, only the last part."""
    return Path(model).name or model if model.startswith(("/", ".", "~")) else model
