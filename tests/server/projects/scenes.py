"""Corrected images: drawn scenes with a glyph set that the seedling was not trained on, and their true boxes."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET


@dataclass(frozen=True)
class CorrectedScene:
    """A PNG and its true boxes."""

    data: bytes
    boxes: tuple[Box, ...]

    @property
    def body(self) -> dict[str, Any]:
        """The body of a request that posts the correction."""
        return {
            "image": base64.b64encode(self.data).decode(),
            "annotations": [box.model_dump(exclude={"score"}) for box in self.boxes],
        }


def draw_scenes(count: int, seed: int = 0) -> Iterator[CorrectedScene]:
    """Yields the same scenes for the same seed."""
    for number in range(count):
        drawn = draw_scene(40_000 + seed + number, sets=(HOLDOUT_SET,), objects=(1, 2), words=(0, 0), size=(120, 100))
        saved = io.BytesIO()
        drawn.image.save(saved, "PNG")
        yield CorrectedScene(saved.getvalue(), tuple(Box(label=each.category, box=each.box) for each in drawn.objects))
