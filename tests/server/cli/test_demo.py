"""The dataset that `make demo` writes."""

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from labels.geometry import box_iou
from labels.opening import open_dataset
from seedling.scenes.drawing import draw_scene
from server.cli.demo import draw_scenes
from server.cli.main import app
from server.jobs.object_matching import SAME_OBJECT_IOU

_MAX_CATEGORIES = 40


def check_coco(folder: Path) -> Counter[str]:
    """Checks a COCO dataset of drawn scenes, and returns its number of outlines and boxes."""
    instances = json.loads((folder / "annotations/instances_default.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    assert 0 < len(names) <= _MAX_CATEGORIES
    assert all(" " not in name for name in names.values())  # phrases have articles and colors
    for image in instances["images"]:
        own = [each for each in instances["annotations"] if each["image_id"] == image["id"]]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (each["bbox"] for each in own)]
        for (one, first), (other, second) in combinations(zip(own, boxes, strict=True), 2):
            is_same = one["category_id"] == other["category_id"] and box_iou(first, second) >= SAME_OBJECT_IOU
            assert not is_same, (one, other)
    return Counter("outline" if each["segmentation"] else "box" for each in instances["annotations"])


def label(images: Path, out: Path) -> None:
    options = ["label", str(images), "--recipe", "full", "--out", str(out), "--images", "copy", "--draw"]
    environment = {"COLUMNS": "200", "FLORIST_DEVICE": "cpu", "FLORIST_DATABASE_URL": None}
    result = CliRunner().invoke(app, options, env=environment)
    assert result.exit_code == 0, result.output
    assert "annotations/captions_default.json has" in result.stdout


def test_an_object_of_the_full_recipe_is_one_annotation(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    draw_scene(2, words=(0, 2)).image.save(tmp_path / "images/scene.png")
    label(tmp_path / "images", tmp_path / "out")
    assert check_coco(tmp_path / "out/coco")["outline"] > 0
    dataset = open_dataset(tmp_path / "out/coco")
    assert dataset.unusable == ()
    labels = sum(len(image.with_regions().annotations) for image in dataset.images)
    drawn = json.loads((tmp_path / "out/drawn/.florist").read_text())
    assert drawn["annotations"] == labels  # and no second box of an object
    described = [trace for image in dataset.images for trace in image.traces if "description" in trace.attributes]
    assert described


@pytest.mark.slow
def test_the_demo_has_at_most_forty_categories(tmp_path: Path) -> None:
    draw_scenes(tmp_path / "images")
    label(tmp_path / "images", tmp_path / "out")
    assert check_coco(tmp_path / "out/coco")["outline"] >= 20
