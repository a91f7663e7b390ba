"""Drawn scenes as labelled pictures: truth without a person, for demonstrations and for the loop of corrections."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from finetune.datasets.samples import CAPTIONS
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import described, make_sample, place_words
from seedling.scenes.scene import Scene


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture in memory, opened."""

    image: Image.Image = field(repr=False)

    def __call__(self) -> Image.Image:
        return self.image


def to_labeled_image(scene: Scene, name: str, *, polygons: bool = False) -> LabeledImage:
    """The scene with all its labels: objects as boxes, tight to the pixel, or as `polygons`, whose outlines are of few
    points; words; and, since only the scene knows how it is worded, the captions and descriptions as questions."""
    objects = [
        Polygon(label=thing.category, polygons=thing.polygons) if polygons else Box(label=thing.category, box=thing.box)
        for thing in scene.objects
    ]
    words = [Quad(label=word.text, quad=word.quad) for word in scene.words]
    chance = np.random.default_rng(0)  # which these tasks leave nothing to
    told = [make_sample(scene, token, chance) for token in (*CAPTIONS, "<DENSE_REGION_CAPTION>")]
    regions = [
        Sample(
            TASKS["<REGION_TO_DESCRIPTION>"],
            (Text(label=f"a {described(thing, scene)} at the {place_words(thing.box, scene)}"),),
            region=thing.box,
        )
        for thing in scene.objects
    ]
    return LabeledImage(
        name, name, scene.width, scene.height, (*objects, *words), Drawn(scene.image),
        frozenset((LabelKind.OBJECTS, LabelKind.WORDS)), (*filter(None, told), *regions),
    )  # fmt: skip


def make_labeled_samples(
    seeds: Iterable[int], objects: tuple[int, int] = (1, 6)
) -> list[tuple[LabeledImage, list[Sample]]]:
    """The scenes of these seeds, with a question of every task that they can be asked."""
    asked = []
    for seed in seeds:
        scene, rng = draw_scene(seed, objects=objects, words=(0, 2)), np.random.default_rng((seed, 2))
        own = [question for token in TASKS if (question := make_sample(scene, token, rng))]
        asked.append((to_labeled_image(scene, str(seed)), own))
    return asked
