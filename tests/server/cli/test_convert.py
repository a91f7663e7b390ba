"""`florist convert` on the command line."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from labels.dataset import Dataset
from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from server.cli.main import app
from tests.labels.samples import list_coordinates

WIDTH, HEIGHT = 100, 80
RINGS = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0], [50.0, 10.0, 70.0, 10.0, 70.0, 25.0, 50.0, 25.0]]
ANNOTATIONS: dict[str, list[Annotation]] = {
    "a/1.png": [
        Box(label="cat", box=(10, 20, 60, 70)),
        Polygon(label="fire hydrant", polygons=RINGS),
        Quad(label="STOP now", quad=(40, 10, 80, 20, 78, 40, 38, 30)),
        Text(label="a cat & a dog"),
    ],
    "b.png": [],
    "a/c 2.png": [Box(label="Hündin <&> 犬", box=(0, 0, 100, 80)), Polygon(label="cat", polygons=RINGS[:1])],
}
COMPLETE = frozenset({LabelKind.OBJECTS, LabelKind.WORDS})
VOC_TOLERANCE = 1.0  # whole pixels


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["convert", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def images(tmp_path: Path) -> list[LabeledImage]:
    made = []
    for number, (name, annotations) in enumerate(ANNOTATIONS.items()):
        path = tmp_path / "source images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(path)
        made.append(LabeledImage(name, "here:1", WIDTH, HEIGHT, tuple(annotations), ImageFile(path), COMPLETE))
    return made


def assert_same(found: Dataset, expected: dict[int, list[Annotation]], tolerance: float) -> None:
    """The images have the expected annotations; an image is identified by its color."""
    by_color = {image.open().getpixel((0, 0))[0]: image for image in found.images}  # type: ignore[index]
    assert sorted(by_color) == sorted(expected)
    for color, annotations in expected.items():
        image = by_color[color]
        assert image.size == (WIDTH, HEIGHT)
        key = lambda a: (a.kind, a.label, [round(v) for v in list_coordinates(a)])  # noqa: E731
        got, wanted = sorted(image.annotations, key=key), sorted(annotations, key=key)
        assert [(a.kind, a.label) for a in got] == [(a.kind, a.label) for a in wanted]
        for one, other in zip(got, wanted, strict=True):
            assert list_coordinates(one) == pytest.approx(list_coordinates(other), abs=tolerance)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_format_converts_to_every_other(
    source: str, target: str, images: list[LabeledImage], tmp_path: Path
) -> None:
    FORMATS[source].write(images, tmp_path / "source", placement=ImagePlacement.COPY, as_folder=True)
    result = run(tmp_path / "source", "--to", target, "--out", tmp_path / "target", "--images", "copy")
    assert result.exit_code == 0, result.output
    expected = dict(enumerate(ANNOTATIONS.values()))
    details = {
        "yolo-detect": "details.jsonl has 2 outlines, 1 words, 1 captions",
        "yolo-segment": "details.jsonl has 2 boxes, 1 words, 1 captions",
        "voc": "details.jsonl has 2 outlines, 1 words, 1 captions",
    }
    written = {"yolo-detect": 4, "yolo-segment": 2, "voc": 4}.get(target, 6)
    assert f"{written} annotations on {len(images)} images" in result.stdout
    if target in details:
        counts = details[target].removeprefix("details.jsonl has ").split(", ")
        line = next(line for line in result.stdout.splitlines() if line.startswith("details.jsonl has "))
        assert sorted(line.removeprefix("details.jsonl has ").split(", ")) == sorted(counts)
    assert (tmp_path / "target/details.jsonl").exists() == (target in details)
    assert "left out" not in result.stdout
    found = open_dataset(tmp_path / "target")
    assert found.unusable == ()
    assert_same(found, expected, VOC_TOLERANCE if "voc" in (source, target) else 0.01)


def test_what_the_source_cannot_use_is_listed_by_file_and_line(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", placement=ImagePlacement.COPY)
    path = tmp_path / "source/annotations/instances_default.json"
    document = json.loads(path.read_text())
    document["annotations"].append({**document["annotations"][0], "id": 99, "bbox": [5, 5, 0, 0], "segmentation": []})
    path.write_text(json.dumps(document))
    result = run(tmp_path / "source", "--to", "voc", "--out", tmp_path / "target")
    assert result.exit_code == 0
    assert "left out: 1 images or labels of" in result.stdout
    lines = (tmp_path / "target.left-out.txt").read_text().splitlines()
    assert lines[0].startswith(
        "instances_default.json: annotation 99: its box [5, 5, 0, 0] (x, y, width, height) has no area"
    )
    assert len(lines) == 1


def test_samples_and_complete_kinds_survive_json_lines_and_are_reported_elsewhere(
    images: list[LabeledImage], tmp_path: Path
) -> None:
    folder = tmp_path / "source images"
    row = {"name": "b.png", "labels": [], "complete": ["words"], "samples": [
        {"task": "<VQA>", "text": "how many?", "region": None, "answer": [{"kind": "text", "label": "two"}]},
        {"task": "<REGION_TO_SEGMENTATION>", "region": [1, 1, 9, 9],
         "answer": [{"kind": "polygon", "polygons": RINGS[:1]}]},
    ]}  # fmt: skip
    (folder / "labels.jsonl").write_text(json.dumps(row))
    (before,) = open_dataset(folder).images
    assert len(before.samples) == 2
    run(folder, "--to", "jsonl", "--out", tmp_path / "lines", "--images", "copy")
    (after,) = open_dataset(tmp_path / "lines").images
    assert after.samples == before.samples
    assert after.complete == before.complete == {"words"}
    result = run(folder, "--to", "coco", "--out", tmp_path / "coco", "--images", "copy")
    assert "details.jsonl has 2 prompts with answers" in result.stdout
    (read,) = open_dataset(tmp_path / "coco").images
    assert read.samples == before.samples


def test_images_are_copied_linked_or_left(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", ImagePlacement.COPY)
    for number, (target, options, where) in enumerate([
        ("yolo-detect", (), "with copies of the images"),
        ("yolo-detect", ("--images", "link"), "with links to the images"),
        ("yolo-detect", ("--images", "none"), "without the images (--images copy or link puts them in)"),
        ("coco", (), "without the images (--images copy or link puts them in)"),
        ("coco", ("--images", "copy"), "with copies of the images"),
        ("label-studio", (), "with copies of the images"),
        ("label-studio", ("--image-url", "https://x.org/"), "with the addresses of the images: https://x.org/NAME"),
        ("jsonl", ("--images", "copy"), "with copies of the images"),
    ]):  # fmt: skip
        out = tmp_path / f"out-{number}"
        result = run(tmp_path / "source", "--to", target, "--out", out, *options)
        assert f"on 3 images: {out}, {where}" in result.stdout
        files = [path for path in out.rglob("*.png") if path.exists()]
        assert len(files) == (0 if "without" in where or "addresses" in where else 3)
        assert {path.stat().st_nlink for path in files} == ({2} if "links" in where else {1} if files else set())
    unknown = run(tmp_path / "source", "--to", "coco", "--out", tmp_path / "x", "--images", "move")
    assert (unknown.exit_code, "'move' is not one of 'copy', 'link', 'none'" in unknown.stderr) == (2, True)


def test_addresses_of_images_are_written(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", ImagePlacement.COPY)
    url = ("--image-url", "https://example.org/x/")
    run(tmp_path / "source", "--to", "label-studio", "--out", tmp_path / "tasks", *url)
    tasks = json.loads((tmp_path / "tasks/tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        f"https://example.org/x/{name}" for name in ("a/1.png", "b.png", "a/c%202.png")
    ]
    refused = run(tmp_path / "source", "--to", "yolo-detect", "--out", tmp_path / "yolo", *url)
    assert (refused.exit_code, "YOLO has no place for the addresses of images" in refused.stderr) == (2, True)


# Where the reference says to put the images of a dataset without images.
PLACES = {"coco": "images", "yolo-detect": "images/train", "yolo-segment": "images/train", "voc": "JPEGImages"}


@pytest.mark.parametrize("target", FORMATS)
def test_images_can_be_put_in_later(target: str, images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", ImagePlacement.COPY)
    run(tmp_path / "source", "--to", target, "--out", tmp_path / "target", "--images", "none")
    place = tmp_path / "target" / PLACES.get(target, ".")
    shutil.copytree(tmp_path / "source" / "images", place, dirs_exist_ok=True)
    dataset = open_dataset(tmp_path / "target")
    assert not [entry for entry in dataset.unusable if "image" in entry.reason]
    assert {image.name.split("/")[-1] for image in dataset.images} >= {"1.png", "c 2.png"}


def test_images_of_a_server_are_not_linked(tmp_path: Path) -> None:
    result = run("job:1", "--to", "coco", "--out", tmp_path / "out", "--images", "link")
    assert result.exit_code == 2
    assert "the images of job:1 belong to the server, which may delete them: use --images copy" in result.stderr


def test_splits_that_become_one_are_said(images: list[LabeledImage], tmp_path: Path) -> None:
    for split, part in (("train", images[:1]), ("val", images[2:])):
        FORMATS["coco"].write(part, tmp_path / split, ImagePlacement.COPY)
        (tmp_path / "source/annotations").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{split}/images").rename(tmp_path / f"source/{split}")
        file = tmp_path / f"{split}/annotations/instances_default.json"
        file.rename(tmp_path / f"source/annotations/instances_{split}.json")
    result = run(tmp_path / "source", "--to", "yolo-detect", "--out", tmp_path / "target")
    assert "one split: train (1 images), val (1 images) are together in the new dataset" in result.stdout
    one = run(tmp_path / "source/annotations/instances_val.json", "--to", "yolo-detect", "--out", tmp_path / "val only")
    assert "one split" not in one.stdout


def test_names_without_folders_called_images_are_one_line(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["yolo-detect"].write(images, tmp_path / "source", ImagePlacement.COPY)
    result = run(tmp_path / "source", "--to", "voc", "--out", tmp_path / "target")
    line = "names: 3 without folders called images, such as train/a/1.png for images/train/a/1.png"
    assert line in result.stdout.splitlines()
    assert "renamed" not in result.stdout
    assert len((tmp_path / "target/renamed.csv").read_text().splitlines()) == 4


def test_a_full_disk_is_an_error_that_says_what_to_do(
    images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_write(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    FORMATS["coco"].write(images, tmp_path / "source", ImagePlacement.COPY)
    monkeypatch.setattr(Path, "write_bytes", fail_to_write)
    result = run(tmp_path / "source", "--to", "yolo-detect", "--out", tmp_path / "target")
    assert result.exit_code == 2
    assert "no space is left on the disk" in result.stderr
    assert "--images link or --images none" in result.stderr
    assert [path.name for path in tmp_path.glob("target*")] == []


def test_images_in_tables_get_a_suffix(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(),
        objects=[{"bbox": datasets.List(datasets.Value("float64")), "label": datasets.Value("string")}],
    )
    rows = {"image": [Image.new("RGB", (9, 9))], "objects": [[{"bbox": [1.0, 1.0, 5.0, 5.0], "label": "cat"}]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "source"))
    result = run(tmp_path / "source", "--to", "yolo-detect", "--out", tmp_path / "target", "--images", "copy")
    assert result.exit_code == 0, result.output
    (image,) = open_dataset(tmp_path / "target").images
    assert image.name.endswith(".png")
    (box,) = image.annotations
    assert list_coordinates(box) == pytest.approx([1, 1, 6, 6], abs=0.01)


def test_a_folder_with_other_files_is_refused(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", placement=ImagePlacement.COPY)
    (tmp_path / "target").mkdir()
    (tmp_path / "target/notes.txt").write_text("mine")
    result = run(tmp_path / "source", "--to", "voc", "--out", tmp_path / "target")
    assert result.exit_code == 2
    assert "files that are not a florist export" in result.stderr
    assert [path.name for path in tmp_path.glob("target*")] == ["target"]
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("out", ["source", "."])
def test_the_source_is_never_replaced(out: str, images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", placement=ImagePlacement.COPY)
    result = run(tmp_path / "source", "--to", "voc", "--out", tmp_path / out)
    assert result.exit_code == 2
    assert "would replace the dataset" in result.stderr
    assert len(open_dataset(tmp_path / "source").images) == 3


def test_errors_are_plain(images: list[LabeledImage], tmp_path: Path) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", placement=ImagePlacement.COPY)
    missing = run(tmp_path / "missing", "--to", "voc", "--out", tmp_path / "target")
    assert (missing.exit_code, "no such file or folder" in missing.stderr) == (2, True)
    unknown = run(tmp_path / "source", "--to", "xml", "--out", tmp_path / "target")
    assert (unknown.exit_code, "there is no format xml; choose one of coco," in unknown.stderr) == (2, True)
    (tmp_path / "file").write_text("x")
    blocked = run(tmp_path / "source", "--to", "voc", "--out", tmp_path / "file/target")
    assert blocked.exit_code == 2
    assert "Traceback" not in blocked.output


def test_progress_is_shown_for_many_images(
    images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FORMATS["coco"].write(images, tmp_path / "source", placement=ImagePlacement.COPY)
    monkeypatch.setattr("server.cli.convert._SHOW_PROGRESS_FROM", 3)
    result = run(tmp_path / "source", "--to", "voc", "--out", tmp_path / "target")
    assert result.exit_code == 0
    assert (tmp_path / "target/labelmap.txt").exists()


def test_names_that_utf_8_cannot_represent_are_shown_escaped(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    try:
        (source / os.fsdecode(b"bad\xff.json")).write_text("{")
    except OSError:
        pytest.skip("this file system has no such names")
    Image.new("RGB", (9, 9)).save(source / "a.png")
    shape = {"label": "cat", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}
    (source / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    result = run(source, "--to", "voc", "--out", tmp_path / "target")
    assert result.exit_code == 0
    assert "bad\\udcff.json" in (tmp_path / "target.left-out.txt").read_text()
    shown = CliRunner().invoke(app, ["inspect", str(source)], env={"COLUMNS": "200"})
    assert "bad\\udcff.json" in shown.stdout
