"""What a project's class list leaves out of its datasets, and of imported jobs."""

from dataclasses import replace
from pathlib import Path

import pytest

from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Text
from server.engine.engine import Engine
from server.projects.class_lists import OutsideClass, is_outside
from server.projects.errors import InvalidAnnotationsError
from server.projects.project_dataset import build_dataset
from tests.server.projects.project_setup import open_projects
from tests.server.projects.scenes import draw_scenes


def test_a_dataset_has_only_declared_classes(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = projects.create_project("small", ("<OD>",), 0.5)
        (scene,) = draw_scenes(1)
        boxes = [Box(label=label, box=(1, 2, 30, 40)) for label in ("cactus", "wren", "wren")]
        projects.corrections.add_correction(project, scene.data, boxes)
        projects.corrections.add_correction(project, scene.data, [Text(label="a wren on a cactus")])
        changed = projects.set_classes(project, ["cactus"])
        assert projects.champions.find_class_list("small") == changed.class_list
        assert projects.corrections.count_outside(changed) == [OutsideClass("wren", 2, 1)]
        current = projects.store.corrections.list_current(changed)
        images = projects.files.get_image_store(changed)
        dataset = build_dataset(changed, current, images)
        (image,) = (*dataset.train, *dataset.holdout)
        assert [each.label for each in image.annotations] == ["cactus", "a wren on a cactus"]
        assert LabelKind.OBJECTS in image.complete  # of the declared classes, all are there
        assert dataset.classes == ("cactus",)
        free = build_dataset(project, current, images)
        assert [len(image.annotations) for image in (*free.train, *free.holdout)] == [4]


def test_a_job_with_other_classes_is_not_imported(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = projects.create_project("strict", ("<OD>",), 0.5, ["cactus"])
        boxes = [Box(label=label, box=(1, 2, 30, 40)) for label in ("cactus", "cacti", "cacti", "wren")]
        image = LabeledImage("a.png", "a.png", 120, 100, tuple(boxes))
        with pytest.raises(InvalidAnnotationsError) as caught:
            projects.corrections.check_import(project, [image])
        first, second = (problem.reason for problem in caught.value.problems)
        assert first.startswith("'cacti' is not one of the 1 classes of strict; did you mean 'cactus'?")
        assert "2 annotations have it" in first
        assert "'wren'" in second
        projects.corrections.check_import(project, [replace(image, annotations=tuple(boxes[:1]))])


def test_only_objects_with_a_label_have_a_class(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = projects.create_project("strict", ("<OD>",), 0.5, ["cactus"])
        assert is_outside(project, LabelKind.OBJECTS, Box(label="wren", box=(1, 2, 3, 4)))
        assert not is_outside(project, LabelKind.OBJECTS, Box(label="", box=(1, 2, 3, 4)))
        assert not is_outside(project, LabelKind.WORDS, Box(label="wren", box=(1, 2, 3, 4)))
        assert not is_outside(replace(project, classes=()), LabelKind.OBJECTS, Box(label="wren", box=(1, 2, 3, 4)))
