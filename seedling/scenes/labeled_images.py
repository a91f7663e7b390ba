"""Drawn scenes as labeled images: ground truth without an annotator, for demos, benchmarks and calibration."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.sample import CAPTION_TASKS, Sample
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.tasks import FLORENCE_TASKS, TASKS
from seedling.scenes.descriptions import describe_region
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene


@dataclass(frozen=True, slots=True)
class InMemoryImage:
    """An opener for an image that is already decoded."""

    image: Image.Image = field(repr=False)

    def __call__(self) -> Image.Image:
        return self.image


def to_labeled_image(scene: Scene, name: str, *, polygons: bool = False) -> LabeledImage:
    """Returns the scene with all its labels.

    Objects are pixel-tight boxes, or with `polygons` their outlines of at most 16 points. Captions and descriptions
    are added as ready samples, since only the scene knows their wording.
    """
    objects = [
        Polygon(label=item.category, polygons=item.polygons) if polygons else Box(label=item.category, box=item.box)
        for item in scene.objects
    ]
    words = [Quad(label=word.text, quad=word.quad) for word in scene.words]
    rng = np.random.default_rng(0)  # these tasks draw nothing from it
    captions = [make_sample(scene, token, rng) for token in (*CAPTION_TASKS, "<DENSE_REGION_CAPTION>")]
    regions = [
        Sample(TASKS["<REGION_TO_DESCRIPTION>"], (Text(label=describe_region(item, scene)),), region=item.box)
        for item in scene.objects
    ]
    return LabeledImage(
        name, name, scene.width, scene.height, (*objects, *words), InMemoryImage(scene.image),
        frozenset((LabelKind.OBJECTS, LabelKind.WORDS)), (*filter(None, captions), *regions),
    )  # fmt: skip


def make_labeled_samples(
    seeds: Iterable[int], objects: tuple[int, int] = (1, 6)
) -> list[tuple[LabeledImage, list[Sample]]]:
    """Returns the scenes of these seeds, each with one sample of every task that fits."""
    labeled = []
    for seed in seeds:
        scene, rng = draw_scene(seed, objects=objects, words=(0, 2)), np.random.default_rng((seed, 2))
        samples = [sample for token in FLORENCE_TASKS if (sample := make_sample(scene, token, rng))]
        labeled.append((to_labeled_image(scene, str(seed)), samples))
    return labeled
