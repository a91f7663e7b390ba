"""Predefined splits: read together from the folder of the dataset, and alone from their own file or folder."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from labels.dataset import DatasetError
from labels.opening import open_dataset
from tests.field.layouts import (
    LINE,
    make_coco,
    make_cvat,
    make_labelme,
    make_row,
    make_voc,
    read_colors,
    read_reasons,
    write,
)  # fmt: skip

BOTH = {"train/a.jpg": 1, "val/a.jpg": 2}


def write_both(tmp_path: Path, images: str) -> None:
    for split, color in (("train", 10), ("val", 20)):
        write(tmp_path / images.format(split), color=color)


@pytest.mark.situation("R1", "COCO: both splits, one file, the folder of one split")
def test_coco(tmp_path: Path) -> None:
    write_both(tmp_path, "images/{}/a.jpg")
    for split in ("train", "val"):
        path = write(tmp_path / f"annotations/instances_{split}.json", make_coco("a.jpg"))
        captions = make_coco("a.jpg")
        captions["annotations"] = [{"id": 5, "image_id": 1, "caption": "a cat"}]
        write(tmp_path / f"annotations/captions_{split}.json", captions)
    for whole in (tmp_path, tmp_path / "annotations"):
        dataset = open_dataset(whole)
        assert [image.name for image in dataset.images] == list(BOTH)
        assert all({each.kind for each in image.annotations} == {"box", "text"} for image in dataset.images)
        assert dataset.unusable == ()
    assert read_colors(path) == {"a.jpg": 2}
    assert [image.name for image in open_dataset(tmp_path / "images/val").images] == ["a.jpg"]


@pytest.mark.situation("R1", "COCO: a split without its image does not take that of another split")
def test_missing_images_of_a_split(tmp_path: Path) -> None:
    write(tmp_path / "images/train/a.jpg", color=10), write(tmp_path / "images/val/b.jpg", color=20)
    for split in ("train", "val"):
        write(tmp_path / f"annotations/instances_{split}.json", make_coco("a.jpg", "b.jpg"))
    assert read_colors(tmp_path) == {"train/a.jpg": 1, "val/b.jpg": 2}
    assert sorted(read_reasons(tmp_path)) == ["instances_train.json: image 2", "instances_val.json: image 1"] or sorted(
        read_reasons(tmp_path)
    ) == ["annotations/instances_train.json: image 2", "annotations/instances_val.json: image 1"]


@pytest.mark.situation("R1", "a split whose folder is missing does not take the images of another split")
@pytest.mark.parametrize(
    ("file", "content", "is_found"),
    [
        ("annotations/instances_val.json", make_coco("a.jpg"), False),
        ("val.jsonl", make_row("a.jpg"), False),
        ("test/a.xml", make_voc("a.jpg"), False),
        ("val/a.json", make_labelme("a.jpg"), False),
        ("annotations/instances_minitrain2017.json", make_coco("a.jpg"), True),
        ("val.json", make_coco("/home/me/train/a.jpg"), True),
        ("labels.json", make_coco("a.jpg"), True),
    ],
)
def test_missing_folder_of_a_split(tmp_path: Path, file: str, content: Any, is_found: bool) -> None:
    write(tmp_path / "images/train/a.jpg", color=10)
    write(tmp_path / file, content)
    if is_found:
        assert list(read_colors(tmp_path).values()) == [1]
    else:
        with pytest.raises(DatasetError, match=r"there is no image 'a\.jpg'"):
            open_dataset(tmp_path)


@pytest.mark.situation("R1", "equal names in subsets, tasks and lists side by side, of which some have no images")
def test_images_of_others(tmp_path: Path) -> None:
    for name, color in (("f", 10), ("g", 20)):
        for place in ("xml/images/day", "coco/images/day", "tasks/1/images/default", "yolo/images/train"):
            write(tmp_path / place / f"{name}.jpg", color=color)
    write(tmp_path / "xml/annotations.xml", make_cvat(("f.jpg", "day"), ("g.jpg", "night")))
    assert read_colors(tmp_path / "xml") == {"day/f.jpg": 1}
    for folder, split, task in (("coco", "{}", ""), ("tasks", "default", "{}/")):
        for key, name in (("day", "f"), ("night", "g")) if not task else (("1", "f"), ("2", "g")):
            file = f"{folder}/{task}annotations/instances_{split}.json".format(key)
            write(tmp_path / file, make_coco(f"{name}.jpg"))
        assert [*read_colors(tmp_path / folder).values()] == [1]
        assert len(read_reasons(tmp_path / folder)) == 1
    with pytest.raises(DatasetError, match="there is no image"):
        open_dataset(tmp_path / "coco/annotations/instances_night.json")
    write(tmp_path / "yolo/data.yaml", "names: [cat]\ntrain: train.txt\nval: val.txt\n")
    write(tmp_path / "yolo/train.txt", "data/images/train/f.jpg"), write(tmp_path / "yolo/labels/train/f.txt", LINE)
    write(tmp_path / "yolo/val.txt", "data/images/val/g.jpg")
    assert read_colors(tmp_path / "yolo") == {"images/train/f.jpg": 1}


@pytest.mark.situation("R1", "COCO, JSON lines: one image in two splits counts once; two versions must be chosen from")
def test_overlapping_files(tmp_path: Path) -> None:
    write(tmp_path / "images/a.jpg", color=10)
    for name in ("train", "val"):
        write(tmp_path / f"splits/{name}.json", make_coco("../images/a.jpg"))
    assert read_colors(tmp_path / "splits") == {"train/images/a.jpg": 1}
    for name in ("old", "new"):
        write(tmp_path / f"coco/{name}.json", make_coco("../images/a.jpg"))
        write(tmp_path / f"rows/{name}.jsonl", make_row("../images/a.jpg"))
    for folder in ("coco", "rows"):
        with pytest.raises(DatasetError, match=r"several datasets; name one of them: .*new.*old"):
            open_dataset(tmp_path / folder)


@pytest.mark.situation("R1", "Pascal VOC: ImageSets, also of one class, and folders of splits")
def test_voc(tmp_path: Path) -> None:
    for name, color in (("a", 10), ("b", 20), ("d/c", 30)):
        write(tmp_path / f"JPEGImages/{name}.jpg", color=color)
        write(tmp_path / f"Annotations/{name}.xml", make_voc(f"{name}.jpg"))
    train = write(tmp_path / "ImageSets/Main/train.txt", "a\nd/c\ngone\n")
    cats = write(tmp_path / "ImageSets/Main/cat_val.txt", "b  1\nc -1\n")
    assert read_colors(tmp_path) == {"a.jpg": 1, "b.jpg": 2, "d/c.jpg": 3}
    assert read_colors(train) == {"a.jpg": 1, "d/c.jpg": 3}
    assert read_reasons(train) == {"train.txt:3": "there is no Annotations/gone.xml"}
    assert read_colors(cats) == {"b.jpg": 2}
    assert read_colors(tmp_path / "Annotations/d") == {"c.jpg": 3}
    write(tmp_path / "JPEGImages/a 1.jpg", color=40), write(tmp_path / "Annotations/a 1.xml", make_voc("a 1.jpg"))
    assert read_colors(write(train, "b\na 1\na 0\n")) == {"b.jpg": 2, "a 1.jpg": 4}
    layouts = write(tmp_path / "ImageSets/Layout/val.txt", '"a 1" 1\n"a 1" 2\nb 3\n')
    assert read_colors(layouts) == {"a 1.jpg": 4, "b.jpg": 2}


@pytest.mark.situation("R1", "Roboflow's VOC: train/a.jpg and train/a.xml")
def test_roboflow_voc(tmp_path: Path) -> None:
    write_both(tmp_path, "{}/a.jpg")
    for split in ("train", "val"):
        write(tmp_path / split / "a.xml", make_voc("a.jpg", folder="", path="a.jpg"))
    assert read_colors(tmp_path) == BOTH
    assert read_colors(tmp_path / "val") == {"a.jpg": 2}


@pytest.mark.situation("R1", "JSON lines: files of splits side by side (Roboflow's PaliGemma), or in folders")
@pytest.mark.parametrize(
    ("images", "rows"),
    [("{}/a.jpg", "{}.jsonl"), ("images/{}/a.jpg", "_annotations.{}.jsonl"), ("{}/a.jpg", "{}/annotations.jsonl")],
)
def test_jsonl(tmp_path: Path, images: str, rows: str) -> None:
    write_both(tmp_path, images)
    for split in ("train", "val"):
        path = write(tmp_path / rows.format(split), make_row("a.jpg"))
    assert read_colors(tmp_path) == BOTH
    assert read_colors(path) == {"a.jpg": 2}


@pytest.mark.situation("R1", "Label Studio: exports of splits side by side")
def test_label_studio(tmp_path: Path) -> None:
    for split, color in (("train", 10), ("val", 20)):
        write(tmp_path / f"images/{split}.jpg", color=color)
        value = {"x": 10, "y": 10, "width": 30, "height": 50, "rectanglelabels": ["cat"]}
        result = {"id": "r", "type": "rectanglelabels", "to_name": "image", "from_name": "label", "value": value,
                  "original_width": 200, "original_height": 100}  # fmt: skip
        task = {
            "id": 1,
            "data": {"image": f"/data/upload/7/0a1b2c3d-{split}.jpg"},
            "annotations": [{"result": [result]}],
        }
        path = write(tmp_path / f"{split}.json", [task])
    assert read_colors(tmp_path) == {"train/train.jpg": 1, "val/val.jpg": 2}
    assert list(read_colors(path).values()) == [2]


@pytest.mark.situation("R1", "Hugging Face: metadata and Parquet of splits; shards with equal names")
def test_huggingface(tmp_path: Path) -> None:
    write_both(tmp_path, "images/{}/a.jpg")
    table = pyarrow.schema({"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}),
                            "objects": pyarrow.list_(pyarrow.struct({"bbox": pyarrow.list_(pyarrow.float64()),
                                                                     "category": pyarrow.string()}))})  # fmt: skip
    objects = [{"bbox": [20, 10, 60, 50], "category": "cat"}]
    for split in ("train", "val"):
        write(tmp_path / f"images/{split}/metadata.jsonl", json.dumps({"file_name": "a.jpg", "objects": objects}))
        data = (tmp_path / f"images/{split}/a.jpg").read_bytes()
        rows = pyarrow.Table.from_pylist([{"image": {"bytes": data, "path": "a.jpg"}, "objects": objects}], table)
        (tmp_path / f"parquet/{split}").mkdir(parents=True)
        pyarrow.parquet.write_table(rows, tmp_path / f"parquet/{split}/0.parquet")
    assert read_colors(tmp_path / "images") == BOTH
    assert read_colors(tmp_path / "images/val") == {"a.jpg": 2}
    assert sorted(read_colors(tmp_path / "parquet").values()) == [1, 2]
    assert list(read_colors(tmp_path / "parquet/val").values()) == [2]


@pytest.mark.situation("R1", "CVAT: a subset of a project alone")
def test_cvat(tmp_path: Path) -> None:
    write_both(tmp_path, "images/{}/a.jpg")
    write(tmp_path / "annotations.xml", make_cvat(("a.jpg", "train"), ("a.jpg", "val")))
    assert read_colors(tmp_path) == BOTH
    assert list(read_colors(tmp_path / "images/val").values()) == [2]


@pytest.mark.situation("R1", "YOLO: data.yaml, the folder and the list of a split")
def test_yolo(tmp_path: Path) -> None:
    write_both(tmp_path, "images/{}/a.jpg")
    for split in ("train", "val"):
        write(tmp_path / f"labels/{split}/a.txt", LINE)
    write(tmp_path / "val.txt", "./images/val/a.jpg\n")
    write(tmp_path / "data.yaml", "train: images/train\nval: val.txt\nnames: [cat]\n")
    both = {"images/train/a.jpg": 1, "images/val/a.jpg": 2}
    assert read_colors(tmp_path) == read_colors(tmp_path / "images") == both
    for part in ("images/val", "val.txt"):
        assert read_colors(tmp_path / part) == {"images/val/a.jpg": 2}


@pytest.mark.situation("R1", "COCO: the file of one split is cut short")
def test_a_broken_file_is_named(tmp_path: Path) -> None:
    write_both(tmp_path, "{}/a.jpg")
    write(tmp_path / "annotations/train.json", make_coco("a.jpg"))
    write(tmp_path / "annotations/val.json", json.dumps(make_coco("a.jpg"))[:-20])
    assert list(read_colors(tmp_path).values()) == [1]
    assert "is not JSON" in read_reasons(tmp_path)["annotations/val.json"]
