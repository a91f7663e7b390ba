"""The classes that the seedling was trained on."""

from seedling.scenes.glyphs import CATEGORIES
from server.engine.checkpoints.sources import SEEDLING


def find_known_classes(base: str) -> tuple[str, ...] | None:
    """Returns the classes that a base was trained on: the categories of the seedling, None for other models."""
    return CATEGORIES if base == SEEDLING else None
