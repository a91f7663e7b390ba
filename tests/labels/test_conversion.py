from dataclasses import replace
from pathlib import Path

import pytest

from labels.conversion import convert_dataset, would_replace_source
from labels.dataset import Dataset, UnusableEntry
from labels.formats import FORMATS
from labels.writing.image_options import ImagePlacement
from tests.labels.samples import make_example_images

IMAGES = tuple(make_example_images())


def test_each_image_is_reported(tmp_path: Path) -> None:
    done = list[int]()
    result = convert_dataset(
        Dataset(IMAGES),
        FORMATS["coco"],
        tmp_path / "out",
        placement=ImagePlacement.COPY,
        on_image=lambda: done.append(1),
    )
    assert len(done) == result.report.images == len(IMAGES)
    assert result.left_out is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_list_of_what_was_left_out_is_replaced_and_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dataset = Dataset(IMAGES, (UnusableEntry("labels.json:3", "its box\nhas no area"),))
    result = convert_dataset(dataset, FORMATS["labelme"], out, placement=ImagePlacement.COPY)
    assert result.left_out == tmp_path / "out.left-out.txt"
    assert result.left_out.read_text().splitlines() == [
        "labels.json:3: its box has no area",
    ]
    convert_dataset(Dataset(IMAGES), FORMATS["coco"], out, placement=ImagePlacement.COPY)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(FileExistsError):
        convert_dataset(Dataset(IMAGES), FORMATS["voc"], tmp_path / "out", placement=ImagePlacement.COPY)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_folders_of_the_source_layout_are_not_part_of_the_new_names(tmp_path: Path) -> None:
    dataset = Dataset((replace(IMAGES[0], name="images/train/a/1.png"),))
    convert_dataset(dataset, FORMATS["yolo-detect"], tmp_path / "out", placement=ImagePlacement.COPY)
    assert (tmp_path / "out/images/train/train/a/1.png").exists()
    assert (tmp_path / "out/labels/train/train/a/1.txt").exists()


def test_the_source_and_the_folders_around_it_are_never_replaced(tmp_path: Path) -> None:
    source = tmp_path / "a/b"
    assert would_replace_source(source, tmp_path / "a/../a/b")
    assert would_replace_source(source, tmp_path / "a")
    assert not would_replace_source(source, tmp_path / "a/c")
    assert not would_replace_source(source, tmp_path / "a/b/c")
