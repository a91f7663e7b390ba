"""The views of one image that prompts are about, prepared for the engine."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from server.jobs.model_prompts import ModelPrompt

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine
    from server.engine.model.preprocessing import PreparedImage

_CACHE_SIZE = 16  # views of one image; each takes 1.7 MB for a checkpoint with 768 × 768 pixels


class ImageCrops:
    """A cache of an image's views, so that each is prepared once."""

    def __init__(self, engine: "Engine", image: Image.Image) -> None:
        self._engine, self._image = engine, image
        self._cache: OrderedDict[tuple[tuple[int, int, int, int] | None, bool], PreparedImage] = OrderedDict()

    def prepare(self, prompt: ModelPrompt) -> "PreparedImage":
        """Returns the view that a prompt is about."""
        key = prompt.crop, prompt.mirrored
        if key not in self._cache:
            view = self._image if prompt.crop is None else self._image.crop(prompt.crop)
            self._cache[key] = self._engine.prepare(ImageOps.mirror(view) if prompt.mirrored else view)
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]
