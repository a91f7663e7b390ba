"""Drawn scenes as labeled images."""

import numpy as np
import pytest

from finetune.datasets.samples import find_trainable_tasks, make_samples
from labels.label_kind import LabelKind
from labels.split import hash_content
from prompts.annotations import Box, Polygon
from prompts.tasks import FLORENCE_TASKS, TASKS, AnswerKind, InputKind, Task
from seedling.scenes.labeled_images import make_labeled_samples, to_labeled_image
from seedling.scenes.samples import make_sample
from seedling.scenes.scene import Scene


def test_a_scene_is_labeled_completely(scenes: list[Scene]) -> None:
    for scene in scenes:
        labeled = to_labeled_image(scene, "a")
        assert labeled.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
        assert labeled.size == labeled.open().size
        assert [annotation.label for annotation in labeled.annotations] == [
            *(item.category for item in scene.objects),
            *(word.text for word in scene.words),
        ]


@pytest.mark.parametrize(
    "token",
    [
        *("<OD>", "<REGION_PROPOSAL>", "<DENSE_REGION_CAPTION>", "<OCR>", "<OCR_WITH_REGION>"),
        *("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>"),
    ],
)
def test_a_labeled_image_has_the_samples_of_its_scene(scenes: list[Scene], token: str) -> None:
    """With the seedling's own words, in the order of its training."""
    for scene in scenes:
        rng = np.random.default_rng(0)
        samples = make_samples(to_labeled_image(scene, "a"), [token], classes=(), rng=rng)
        assert samples == [make_sample(scene, token, rng)]


def test_every_task_can_be_trained(scenes: list[Scene]) -> None:
    tasks = (find_trainable_tasks(to_labeled_image(scene, "a", polygons=True)) for scene in scenes)
    assert set[str]().union(*tasks) == set(FLORENCE_TASKS)


def test_objects_are_boxes_or_polygons(scenes: list[Scene]) -> None:
    scene = next(scene for scene in scenes if scene.objects)
    boxes, polygons = (to_labeled_image(scene, "a", polygons=polygons) for polygons in (False, True))
    assert boxes.annotations[0] == Box(label=scene.objects[0].category, box=scene.objects[0].box)
    assert polygons.annotations[0] == Polygon(label=scene.objects[0].category, polygons=scene.objects[0].polygons)


def test_scenes_have_different_content_hashes(scenes: list[Scene]) -> None:
    assert len({hash_content(to_labeled_image(scene, "same")) for scene in scenes}) == len(scenes)


def test_a_task_that_a_project_adds_does_not_change_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seedling knows only the tasks of Florence-2."""
    before = make_labeled_samples([3])
    added = Task("<COUNT>", "Count", "How many {input} are there?", InputKind.TEXT, AnswerKind.TEXT)
    monkeypatch.setitem(TASKS, added.token, added)
    assert make_labeled_samples([3]) == before
