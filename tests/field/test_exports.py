"""Exports from the field: each image finds its own labels where the tool that reads the format looks."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from labels.opening import open_dataset
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from server.cli.main import app

WIDTH, HEIGHT = 200, 100
LONG = "x" * 250 + ".png"


def run_florist(*arguments: object) -> Result:
    variables = {"COLUMNS": "400", "FLORIST_DEVICE": "cpu", "FLORIST_DATABASE_URL": ""}
    result = CliRunner().invoke(app, [*map(str, arguments)], env=variables)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def find_yolo_labels(image: Path) -> list[str]:
    """Ultralytics' rule: the last /images/ of the path becomes /labels/."""
    path = Path("/labels/".join(str(image).rsplit("/images/", 1)).rpartition(".")[0] + ".txt")
    assert path.is_file(), f"{image} has no labels at {path}"
    return path.read_text().splitlines()


def read_renamed(folder: Path) -> dict[str, str]:
    if not (folder / "renamed.csv").exists():
        return {}
    with (folder / "renamed.csv").open(newline="") as file:
        return {row["name"]: row["new_name"] for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Returns a folder of images, what `florist label` writes about them, and what it prints."""
    folder = tmp_path_factory.mktemp("label")
    names = ["images/a.png", "2024-05-01T12:30:05.png", "c.jpg", "c.png", "deep/images/x/images/d.png"]
    for seed, name in enumerate(names):
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        draw_scene(9000 + seed, objects=(1, 2)).image.save(folder / "in" / name)
    options = [option for name in ("yolo-detect", "voc", "labelme", "jsonl") for option in ("--format", name)]
    result = run_florist("label", folder / "in", "--task", "<OD>", "--out", folder / "out", *options)
    assert result.exit_code == 0, result.output
    return folder / "in", folder / "out", result.stdout


def count_truth(out: Path) -> dict[str, Counter[str]]:
    """Returns the classes of each image by its name, from the export that names images as the source does."""
    rows = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    return {row["name"]: Counter(label["annotation"]["label"] for label in row["labels"]) for row in rows}


@pytest.mark.situation("S1", "a source with folders called images: YOLO's labels are found by Ultralytics' rule")
def test_each_labeled_image_finds_its_own_yolo_labels(labeled: tuple[Path, Path, str]) -> None:
    images, out, _ = labeled
    dataset, truth = out / "yolo-detect", count_truth(out)
    assert sum(truth.values(), Counter()).total() > 3
    renamed = read_renamed(dataset)
    for name, classes in truth.items():
        copy = dataset / "images/train" / renamed.get(name, name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / name, copy)
        found = Counter(line.split()[0] for line in find_yolo_labels(copy))
        assert sorted(found.values()) == sorted(classes.values())
    read = {image.name: Counter(a.label for a in image.annotations) for image in open_dataset(dataset).images}
    assert read == {f"images/train/{renamed.get(name, name)}": classes for name, classes in truth.items()}


@pytest.mark.situation("S2", "YOLO's labels are called as the images; a.jpg and a.png are renamed with notice")
def test_labels_are_called_as_the_images_and_a_new_name_is_said(labeled: tuple[Path, Path, str]) -> None:
    _, out, printed = labeled
    assert (out / "yolo-detect/labels/train/2024-05-01T12:30:05.txt").exists()
    assert read_renamed(out / "yolo-detect") == {"c.png": "c-2.png"}
    assert "renamed: c.png is called c-2.png in this dataset" in printed
    assert "1 names that Windows does not allow: 2024-05-01T12:30:05.png" in printed


@pytest.mark.situation("S2", "VOC and LabelMe: labels are called as the images, a renamed one is named")
@pytest.mark.parametrize(("name", "folder"), [("voc", "JPEGImages"), ("labelme", ".")])
def test_each_labeled_image_finds_its_own_file(labeled: tuple[Path, Path, str], name: str, folder: str) -> None:
    images, out, _ = labeled
    truth, renamed = count_truth(out), read_renamed(out / name)
    assert renamed == {"c.png": "c-2.png"}
    for image in truth:
        copy = out / name / folder / renamed.get(image, image)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(images / image, copy)
    read = {image.name: Counter(a.label for a in image.annotations) for image in open_dataset(out / name).images}
    assert read == {renamed.get(image, image): classes for image, classes in truth.items()}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO dataset with one box in each image, whose left side is the number of the image."""
    names = ["A.png", "a.png", "a.jpg", "t./b.png", "c .png", LONG, "n\nl.png", ".h/e.png", "x/images/f.png", "g,h.png"]
    images, annotations = [], []
    for number, name in enumerate(names, 1):
        path = tmp_path / "in" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(path, "PNG")
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [number, 10, 50, 50]})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a:b"}]}
    (tmp_path / "in" / "instances.json").write_text(json.dumps(document))
    return tmp_path / "in" / "instances.json"


FORMATS = ["yolo-detect", "voc", "labelme", "coco", "cvat", "label-studio", "huggingface", "jsonl"]


@pytest.mark.situation(
    "E1", "names that differ in case or suffix, end in a dot, are long, hidden, of two lines, have a comma"
)
@pytest.mark.parametrize("name", FORMATS)
def test_converted_images_keep_their_own_labels(coco: Path, tmp_path: Path, name: str) -> None:
    result = run_florist("convert", coco, "--to", name, "--out", tmp_path / "out", "--images", "copy")
    assert result.exit_code == 0, result.output
    found = open_dataset(tmp_path / "out")
    assert found.unusable == ()
    assert len(found.images) == 10
    for image in found.images:
        (box,) = image.annotations
        assert isinstance(box, Box)
        assert image.open().getpixel((0, 0))[0] == pytest.approx(box.box[0], abs=1)  # type: ignore[index]
    renamed = read_renamed(tmp_path / "out")
    assert renamed["n\nl.png"] == "n_l.png"
    assert renamed[".h/e.png"] == "_.h/e.png"
    assert ("a.jpg" in renamed) == (name in ("yolo-detect", "voc", "labelme"))
    assert "renamed: 'n\\nl.png' is called n_l.png in this dataset" in result.stdout
    if name != "jsonl":
        assert "differ in case" in result.stdout


@pytest.mark.situation("S2", "folders of the source that are called as those of the format")
@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("name", ["coco", "cvat", "label-studio", "huggingface", "jsonl", "yolo-detect", "voc"])
def test_images_of_one_name_are_told_apart(tmp_path: Path, name: str, copies: bool) -> None:
    names = ["a.png", "images/a.png", "images/images/a.png", "images/b.png"]
    names += [
        f"{folder}/a.png" for folder in ("default", "labels", "Images", "Annotations", "labels/default", "JPEGImages")
    ]

    def make_box(number: int) -> list[dict[str, Any]]:
        return [{"annotation": {"kind": "box", "label": "cat", "box": [number, 1, 90, 90]}}]

    for number, image in enumerate(names):
        (tmp_path / "in" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(tmp_path / "in" / image, "PNG")
    rows = "".join(json.dumps({"name": image, "labels": make_box(number)}) + "\n" for number, image in enumerate(names))
    (tmp_path / "in/labels.jsonl").write_text(rows)
    out = tmp_path / "out"
    result = run_florist(
        "convert", tmp_path / "in", "--to", name, "--out", out, "--images", "copy" if copies else "none"
    )
    assert result.exit_code == 0, result.output
    changed = {"cvat": {"images/a.png"}, "jsonl": {"images/a.png"}, "coco": {"default/a.png"}} if copies else {}
    assert set(read_renamed(out)) == {"images/b.png", *changed.get(name, ())}
    if copies:
        assert len(open_dataset(out).images) == len(names)
    for image in open_dataset(out).images if copies else ():
        (box,) = image.annotations
        assert isinstance(box, Box)
        assert image.open().getpixel((0, 0))[0] == round(box.box[0])  # type: ignore[index]


@pytest.mark.situation("E2", "class names that VOC cannot hold are named")
def test_renamed_classes_are_named(coco: Path, tmp_path: Path) -> None:
    result = run_florist("convert", coco, "--to", "voc", "--out", tmp_path / "out")
    assert "renamed: the class a:b is called 'a b' in this dataset" in result.stdout


@pytest.mark.situation("E3", "CVAT takes a.jpg and a.png for one image: said")
def test_images_that_cvat_cannot_tell_apart_are_named(coco: Path, tmp_path: Path) -> None:
    result = run_florist("convert", coco, "--to", "cvat", "--out", tmp_path / "out")
    assert (
        "1 images that CVAT and Datumaro take for another (their names differ only in the suffix): a.jpg"
        in result.stdout
    )


@pytest.mark.situation("E4", "an output folder with other files is refused before anything is labeled")
def test_a_foreign_output_folder_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "out/coco").mkdir(parents=True)
    (tmp_path / "out/coco/thesis.txt").touch()
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "in/a.png")
    result = run_florist("label", tmp_path / "in", "--task", "<OD>", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "contains files that are not a florist export" in result.stderr
    assert not (tmp_path / "out/florist.db").exists()


@pytest.mark.situation("E5", "a YOLO dataset whose images are elsewhere names each folder once")
def test_a_yolo_dataset_without_images_names_its_folder_once(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [cat]\n")
    result = run_florist("inspect", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.count("images/train") == 1
