import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.opening import open_dataset
from labels.split import hash_content
from prompts.annotations import Box, Polygon, Quad, Text

Save = Callable[..., Path]
CLASSES = ["cat", "dog"]


def rows(*each: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, each))


def made(save: Save, folder: str = "") -> datasets.Dataset:
    """Two pictures with objects as the documentation of `datasets` has them, and a caption."""
    paths = [str(save(f"{folder}source/{name}.png")) for name in "ab"]
    objects = [
        {"bbox": [[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]], "category": [0, 1]},
        {"bbox": [], "category": []},
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
                "category": datasets.List(datasets.ClassLabel(names=CLASSES)),
            },
            "caption": datasets.Value("string"),
        }
    )
    columns = {"image": paths, "objects": objects, "caption": ["a cat", None]}
    return datasets.Dataset.from_dict(columns, features=features)


def check(path: Path) -> None:
    dataset = open_dataset(path)
    assert dataset.unusable == ()
    a, b = dataset.images
    assert a.annotations == (
        Box(label="cat", box=(10, 20, 40, 60)),
        Box(label="dog", box=(1, 2, 4, 6)),
        Text(label="a cat"),
    )
    assert (b.annotations, b.complete) == ((), {LabelKind.OBJECTS})
    assert a.open().size == (100, 80)
    assert hash_content(a) != hash_content(b)
    assert pickle.loads(pickle.dumps(a)).open().tobytes() == a.open().tobytes()


def test_parquet_with_names_of_classes(save: Save, tmp_path: Path) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    made(save).to_parquet(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    check(tmp_path / "out")
    check(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")


def test_what_save_to_disk_writes(save: Save, tmp_path: Path) -> None:
    datasets.DatasetDict({"train": made(save)}).save_to_disk(tmp_path / "out")
    check(tmp_path / "out")


def test_an_imagefolder_with_splits(save: Save) -> None:
    save("train/a.png")
    save("test/a.png")
    row = {"file_name": "a.png", "objects": {"bbox": [[10, 20, 30, 40]], "categories": ["cat"]}, "text": ["one", "two"]}
    save("train/metadata.jsonl", rows(row))
    root = save("test/metadata.jsonl", rows(row)).parent.parent
    dataset = open_dataset(root)
    assert [each.name for each in dataset.images] == ["test/a.png", "train/a.png"]
    assert dataset.images[0].annotations == (
        Box(label="cat", box=(10, 20, 40, 60)),
        Text(label="one"),
        Text(label="two"),
    )
    assert [each.name for each in open_dataset(root / "train").images] == ["a.png"]


def test_names_of_classes_at_the_head_of_the_card(save: Save) -> None:
    save("a.png")
    card = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: objects
    sequence:
    - name: category
      dtype: {class_label: {names: {'0': cat, '1': dog}}}
---
# Pets
"""
    root = save("README.md", card).parent
    save("metadata.jsonl", rows({"file_name": "a.png", "objects": [{"bbox": [1, 2, 3, 4], "category": 1}]}))
    assert open_dataset(root).classes == ("dog",)


def test_what_cannot_be_used_is_listed_by_file_and_line(save: Save) -> None:
    save("a.png")
    objects = [
        {"bbox": [10, 20, 30, 40], "category": "cat"},
        {"bbox": [10, 20, 30, 40], "category": 3},
        {"bbox": [10, 20, -30, 40], "category": "cat"},
        {"bbox": [10, 20], "category": "cat"},
        {"category": "cat"},
        5,
        {"box": [1, 1, 9, 9], "polygons": "x", "category": "cat"},
    ]
    lines = [{"file_name": "a.png", "objects": objects, "caption": 7}, {"file_name": "b.png"}, {"file": "c.png"}]
    dataset = open_dataset(save("metadata.jsonl", rows(*lines) + "\n{").parent)
    assert [each.source for each in dataset.unusable] == [
        *(f"metadata.jsonl:1, object {n}" for n in range(1, 7)),
        *(f"metadata.jsonl:{line}" for line in range(1, 5)),
    ]
    assert len(dataset.images[0].annotations) == 1


def test_florists_records(save: Save) -> None:
    save("a.png")
    ring = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
    objects = [
        {"kind": "polygon", "category": "cat", "text": None, "box": [1, 1, 9, 9], "polygons": [ring]},
        {"kind": "quad", "category": "text", "text": "GO", "box": [1, 1, 9, 9], "polygons": [[1, 1, 9, 1, 9, 9, 1, 9]]},
    ]
    row = {"file_name": "a.png", "name": "x", "objects": objects, "captions": [{"text": "a cat", "score": 0.5}]}
    (example,) = open_dataset(save("metadata.jsonl", rows(row))).images
    assert example.annotations == (
        Polygon(label="cat", polygons=[ring]),
        Quad(label="GO", quad=(1, 1, 9, 1, 9, 9, 1, 9)),
        Text(label="a cat"),
    )


def test_tables_without_pictures_and_broken_ones_are_refused(save: Save, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="row 0: its row contains no image"):
        open_dataset(tmp_path / "a.parquet")
    for name in ("b.parquet", "b.arrow"):
        with pytest.raises(DatasetError, match="cannot be read"):
            open_dataset(save(name, "nothing"))
