"""`florist inspect` on the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from server.cli.main import app


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three images as COCO: two cats and a dog, a word, a caption, an empty image, and two labels without area."""
    for name, size in (("a.png", (100, 80)), ("b.png", (100, 80)), ("c.jpg", (40, 60))):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / name)
    images = [
        {"id": number, "file_name": name} for number, name in enumerate(("a.png", "b.png", "c.jpg", "gone.png"), 1)
    ]
    square = [10, 10, 40, 10, 40, 50]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 30, 20]},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [square], "bbox": [10, 10, 30, 40]},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [0, 0, 100, 80]},
        {"id": 4, "image_id": 2, "category_id": 1, "bbox": [5, 5, 10, 10], "text": "STOP"},
        {"id": 5, "image_id": 1, "caption": "two [bold] cats"},
        {"id": 6, "image_id": 1, "category_id": 1, "bbox": [5, 5, 0, 9]},
        {"id": 7, "image_id": 2, "category_id": 1, "bbox": [5, 5, 0, 9]},
    ]
    categories = [{"id": 1, "name": "cat [red]"}, {"id": 2, "name": "dog"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "labels.json").write_text(json.dumps(document))
    return tmp_path / "labels.json"


def test_images_classes_and_sizes_are_shown(dataset: Path) -> None:
    result = run(dataset)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"{dataset} (COCO): 3 images, 2 boxes, 1 polygons, 1 words, 1 captions"
    assert "1 images have no annotations" in lines
    assert "widths 40 to 100 px (median 100), heights 60 to 80 px (median 80)" in lines
    assert "most common sizes: 100×80 (2 images), 40×60 (1 images)" in lines
    assert "longer sides of objects 30 to 100 px (median 40)" in lines
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines if line.startswith("│")]
    assert rows == [["cat [red]", "1", "1", "1"], ["dog", "1", "0", "1"]]


def test_what_cannot_be_used_is_shown_with_its_reason(dataset: Path) -> None:
    output = run(dataset).stdout
    assert "4 images or labels are not used, or only in part:" in output
    sources = "labels.json: annotation 6, labels.json: annotation 7"
    assert f"{sources}: its box [5, 5, 0, 9] (x, y, width, height) has no area (2 times)" in output
    assert "labels.json: image 4: there is no image 'gone.png'" in output


def test_json_has_everything(dataset: Path) -> None:
    summary = json.loads(run(dataset, "--json").stdout)
    unusable = summary.pop("unusable")
    places = [entry["source"].rpartition(": ")[2] for entry in unusable]
    assert places == ["image 4", "annotation 6", "annotation 7", "annotation 4"]
    assert unusable[1]["reason"] == "its box [5, 5, 0, 9] (x, y, width, height) has no area"
    assert summary == {
        "format": "COCO",
        "images": 3,
        "empty_images": 1,
        "holdout_images": 0,
        "splits": [],
        "classes": [
            {"name": "cat [red]", "boxes": 1, "polygons": 1, "images": 1},
            {"name": "dog", "boxes": 1, "polygons": 0, "images": 1},
        ],
        "annotations": {"box": 2, "polygon": 1, "quad": 1, "text": 1},
        "samples": 0,
        "regions": 0,
        "complete": {"objects": 1, "words": 3, "captions": 0},
        "widths": {"smallest": 40, "median": 100, "largest": 100},
        "heights": {"smallest": 60, "median": 80, "largest": 80},
        "common_sizes": [{"width": 100, "height": 80, "images": 2}, {"width": 40, "height": 60, "images": 1}],
        "object_sides": {"smallest": 30.0, "median": 40.0, "largest": 100.0},
    }


def test_broken_images_are_found_when_they_are_decoded(dataset: Path) -> None:
    image = dataset.parent / "c.jpg"
    image.write_bytes(image.read_bytes()[:-300])
    assert "3 images" in run(dataset).stdout
    decoded = run(dataset, "--decode")
    assert "(COCO): 2 images" in decoded.stdout
    assert "labels.json: image 3: the image is cut short" in decoded.stdout


def test_a_path_without_a_dataset_is_an_error(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 2
    assert "is not a dataset of a known format" in result.stderr
    assert "COCO (a .json file with images and annotations)" in result.stderr
    assert run(tmp_path / "missing", "--json").exit_code == 2
