import numpy as np
import pytest

from finetune.datasets.samples import questions, teachable
from labels.label_kind import LabelKind
from labels.split import content_of
from prompts.annotations import Box, Polygon
from prompts.tasks import TASKS
from seedling.scenes.labeled_images import to_labeled_image
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene


def test_a_scene_is_known_wholly(scenes: list[Scene]) -> None:
    for scene in scenes:
        example = to_labeled_image(scene, "a")
        assert example.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
        assert example.size == example.open().size
        assert [note.label for note in example.annotations] == [
            *(thing.category for thing in scene.objects),
            *(word.text for word in scene.words),
        ]


@pytest.mark.parametrize(
    "token",
    [
        *("<OD>", "<REGION_PROPOSAL>", "<DENSE_REGION_CAPTION>", "<OCR>", "<OCR_WITH_REGION>"),
        *("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"),
    ],
)
def test_an_example_teaches_what_its_scene_does(scenes: list[Scene], token: str) -> None:
    """The words are the seedling's own, and the order of its training."""
    for scene in scenes:
        rng = np.random.default_rng(0)
        assert questions(to_labeled_image(scene, "a"), [token], labels=(), rng=rng) == [make_sample(scene, token, rng)]


def test_every_task_is_taught(scenes: list[Scene]) -> None:
    assert set[str]().union(*(teachable(to_labeled_image(scene, "a", polygons=True)) for scene in scenes)) == set(TASKS)


def test_objects_are_boxes_or_polygons(scenes: list[Scene]) -> None:
    scene = next(scene for scene in scenes if scene.objects)
    boxes, polygons = (to_labeled_image(scene, "a", polygons=polygons) for polygons in (False, True))
    assert boxes.annotations[0] == Box(label=scene.objects[0].category, box=scene.objects[0].box)
    assert polygons.annotations[0] == Polygon(label=scene.objects[0].category, polygons=scene.objects[0].polygons)


def test_scenes_are_told_apart(scenes: list[Scene]) -> None:
    assert len({content_of(to_labeled_image(scene, "same")) for scene in scenes}) == len(scenes)
