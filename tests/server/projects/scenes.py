"""Corrected pictures: scenes of the emoji set that the seedling was not taught, with their drawn truth."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET


@dataclass(frozen=True)
class Scene:
    """A PNG and its true boxes."""

    data: bytes
    boxes: tuple[Box, ...]

    @property
    def body(self) -> dict[str, Any]:
        """As a correction is posted."""
        return {
            "image": base64.b64encode(self.data).decode(),
            "annotations": [box.model_dump(exclude={"score"}) for box in self.boxes],
        }


def scenes(count: int, seed: int = 0) -> Iterator[Scene]:
    """The same for the same seed."""
    for number in range(count):
        drawn = draw_scene(40_000 + seed + number, sets=(HOLDOUT_SET,), objects=(1, 2), words=(0, 0), size=(120, 100))
        saved = io.BytesIO()
        drawn.image.save(saved, "PNG")
        yield Scene(saved.getvalue(), tuple(Box(label=thing.category, box=thing.box) for thing in drawn.objects))
