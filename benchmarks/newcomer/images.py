"""Images of a newcomer's project: a style that the seedling has not seen, and two classes that it does not know."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, Glyph, render_glyph

NEW_CLASSES = ("cactus", "octopus")
CLASSES = (*CATEGORIES, *NEW_CLASSES)
_NEW_SHARE = 0.8  # of the images have an object of a new class
_TRIES = 40  # to find a free place for it


@cache
def load_new_glyphs() -> dict[str, Glyph]:
    """Returns the glyph of each new class, in the style of the holdout set."""
    icons = json.loads((Path(__file__).parent / "glyphs.json").read_text(encoding="utf-8"))["icons"]
    return {name: Glyph("openmoji", name, name, icons[name][0]["svg"]) for name in NEW_CLASSES}


def draw_newcomer_image(seed: int) -> LabeledImage:
    """Returns the image of a seed, with every object boxed and named."""
    rng = np.random.default_rng((seed, 5))
    scene = draw_scene(seed, sets=(HOLDOUT_SET,), objects=(1, 3), words=(0, 1))
    image, boxes = scene.image.convert("RGB"), [Box(label=item.category, box=item.box) for item in scene.objects]
    if rng.random() < _NEW_SHARE:
        taken = [box.box for box in boxes] + [word.box for word in scene.words]
        if (added := _add_object(rng, image, NEW_CLASSES[int(rng.integers(len(NEW_CLASSES)))], taken)) is not None:
            boxes.append(added)
    complete = frozenset({LabelKind.OBJECTS})
    return LabeledImage(f"{seed}.png", "drawn", *image.size, tuple(boxes), lambda: image, complete)


def _add_object(
    rng: np.random.Generator, image: Image.Image, name: str, taken: list[tuple[float, float, float, float]]
) -> Box | None:
    """Draws an object where nothing is, and returns its box; None if there is no place."""
    glyph = render_glyph(load_new_glyphs()[name])
    side = rng.uniform(0.18, 0.42) * (image.width * image.height) ** 0.5
    for _ in range(_TRIES):
        scale = side / max(glyph.size)
        width, height = max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))
        if width < image.width and height < image.height:
            x, y = int(rng.integers(image.width - width)), int(rng.integers(image.height - height))
            box = (x, y, x + width, y + height)
            if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                small = glyph.resize((width, height), Image.Resampling.LANCZOS)
                image.paste(small, (x, y), small)
                return Box(label=name, box=(float(x), float(y), float(x + width), float(y + height)))
        side *= 0.96
    return None
