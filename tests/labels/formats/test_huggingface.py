import json
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets as hf
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.split import hash_content
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon, Quad, Text
from tests.labels.samples import (
    HEIGHT,
    WIDTH,
    boxes,
    captions,
    expect_category,
    export,
    lists_of_images,
    make_example_images,
    polygons,
    quads,
    round_values,
    some,
)

Save = Callable[..., Path]
CLASSES = ["cat", "dog"]


def format_rows(*each: dict[str, Any]) -> str:
    return "\n".join(map(json.dumps, each))


def make_dataset(save: Save, folder: str = "") -> hf.Dataset:
    """Writes two images with objects in the form of the `datasets` documentation, and a caption."""
    paths = [str(save(f"{folder}source/{name}.png")) for name in "ab"]
    objects = [
        {"bbox": [[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 3.0, 4.0]], "category": [0, 1]},
        {"bbox": [], "category": []},
    ]
    features = hf.Features(
        {
            "image": hf.Image(),
            "objects": {
                "bbox": hf.List(hf.List(hf.Value("float32"))),
                "category": hf.List(hf.ClassLabel(names=CLASSES)),
            },
            "caption": hf.Value("string"),
        }
    )
    columns = {"image": paths, "objects": objects, "caption": ["a cat", None]}
    return hf.Dataset.from_dict(columns, features=features)


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


def test_parquet_with_class_names_is_read(save: Save, tmp_path: Path) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    make_dataset(save).to_parquet(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    check(tmp_path / "out")
    check(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")


def test_what_save_to_disk_writes(save: Save, tmp_path: Path) -> None:
    hf.DatasetDict({"train": make_dataset(save)}).save_to_disk(tmp_path / "out")
    check(tmp_path / "out")


def test_an_imagefolder_with_splits_is_read(save: Save) -> None:
    save("train/a.png")
    save("test/a.png")
    row = {"file_name": "a.png", "objects": {"bbox": [[10, 20, 30, 40]], "categories": ["cat"]}, "text": ["one", "two"]}
    save("train/metadata.jsonl", format_rows(row))
    root = save("test/metadata.jsonl", format_rows(row)).parent.parent
    dataset = open_dataset(root)
    assert [each.name for each in dataset.images] == ["test/a.png", "train/a.png"]
    assert dataset.images[0].annotations == (
        Box(label="cat", box=(10, 20, 40, 60)),
        Text(label="one"),
        Text(label="two"),
    )
    assert [each.name for each in open_dataset(root / "train").images] == ["a.png"]


def test_class_names_are_read_from_the_header_of_the_card(save: Save) -> None:
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
    save("metadata.jsonl", format_rows({"file_name": "a.png", "objects": [{"bbox": [1, 2, 3, 4], "category": 1}]}))
    assert open_dataset(root).classes == ("dog",)


def test_unusable_entries_name_file_and_line(save: Save) -> None:
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
    dataset = open_dataset(save("metadata.jsonl", format_rows(*lines) + "\n{").parent)
    assert [each.source for each in dataset.unusable] == [
        *(f"metadata.jsonl:1, object {n}" for n in range(1, 7)),
        *(f"metadata.jsonl:{line}" for line in range(1, 5)),
    ]
    assert len(dataset.images[0].annotations) == 1


def test_the_writers_own_records_are_read(save: Save) -> None:
    save("a.png")
    ring = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
    objects = [
        {"kind": "polygon", "category": "cat", "text": None, "box": [1, 1, 9, 9], "polygons": [ring]},
        {"kind": "quad", "category": "text", "text": "GO", "box": [1, 1, 9, 9], "polygons": [[1, 1, 9, 1, 9, 9, 1, 9]]},
    ]
    row = {"file_name": "a.png", "name": "x", "objects": objects, "captions": [{"text": "a cat", "score": 0.5}]}
    (example,) = open_dataset(save("metadata.jsonl", format_rows(row))).images
    assert example.annotations == (
        Polygon(label="cat", polygons=[ring]),
        Quad(label="GO", quad=(1, 1, 9, 1, 9, 9, 1, 9)),
        Text(label="a cat"),
    )


def test_tables_without_images_and_broken_tables_are_refused(save: Save, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="row 0: its row contains no image"):
        open_dataset(tmp_path / "a.parquet")
    for name in ("b.parquet", "b.arrow"):
        with pytest.raises(DatasetError, match="cannot be read"):
            open_dataset(save(name, "nothing"))


# Writing


def load_rows(folder: Path, cache: Path) -> hf.Dataset:
    return hf.load_dataset(str(folder), split="train", cache_dir=str(cache))


def expect_place(label: TracedAnnotation) -> tuple[object, ...]:
    annotation = label.annotation
    rings = (
        [annotation.quad]
        if isinstance(annotation, Quad)
        else annotation.polygons
        if isinstance(annotation, Polygon)
        else []
    )
    if isinstance(annotation, Box):
        box = annotation.box
    else:
        values = [v for ring in rings for v in ring]
        box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    return round_values(box), [round_values(r) for r in rings], annotation.score, label.review


def get_place(row: dict[str, Any]) -> tuple[object, ...]:
    return round_values(row["box"]), [round_values(r) for r in row["polygons"]], row["score"], row["review"]


def check_rows(images: list[LabeledImage], rows: hf.Dataset, key: str) -> None:
    found = {row["name"]: row for row in rows}
    assert len(rows) == len(found) == len(images)
    for image in images:
        row = found[image.name]
        assert (row["width"], row["height"]) == (image.width, image.height)
        assert row[key].size == (WIDTH, HEIGHT) if key == "image" else row[key] == image.name
        objects = [each for each in image.traces if isinstance(each.annotation, Box | Polygon)]
        assert [(each["kind"], each["category"], *get_place(each)) for each in row["objects"]] == [
            (each.annotation.kind, expect_category(each.annotation), *expect_place(each)) for each in objects
        ]
        words = [each for each in image.traces if isinstance(each.annotation, Quad)]
        assert [(each["text"], *get_place(each)) for each in row["words"]] == [
            (each.annotation.label, *expect_place(each)) for each in words
        ]
        caption_rows = [(caption["text"], caption["score"]) for caption in row["captions"]]
        annotations = [label.annotation for label in image.traces]
        assert caption_rows == [
            (annotation.label, annotation.score) for annotation in annotations if isinstance(annotation, Text)
        ]


@settings(some, max_examples=6)
@given(lists_of_images(st.one_of(boxes(), quads(), polygons(), captions())))
def test_datasets_loads_every_label(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export("huggingface", images, Path(folder, "out"))
        check_rows(images, load_rows(Path(folder, "out"), Path(folder, "cache")), "image")


def test_datasets_loads_an_image_whose_name_is_not_utf8(tmp_path: Path) -> None:
    image = make_example_images()[0]
    export("huggingface", [replace(image, name="\udcffa.png")], tmp_path / "out")
    (row,) = load_rows(tmp_path / "out", tmp_path / "cache")
    assert row["name"] == "\\udcffa.png"
    assert row["image"].size == image.size


@pytest.mark.parametrize("images", [make_example_images(), make_example_images()[1:]], ids=["labels", "none"])
def test_without_copies_rows_have_the_names_of_the_images(images: list[LabeledImage], tmp_path: Path) -> None:
    export("huggingface", images, tmp_path / "out", placement=ImagePlacement.NONE)
    check_rows(images, load_rows(tmp_path / "out", tmp_path / "cache"), "file_name")


def test_folders_called_test_are_not_a_split(tmp_path: Path) -> None:
    images = [
        LabeledImage.from_traces(f"{name}/1.png", WIDTH, HEIGHT, (), make_example_images()[0].read, sha256="0")
        for name in ("test", "train")
    ]
    export("huggingface", images, tmp_path / "out")
    assert len(load_rows(tmp_path / "out", tmp_path / "cache")) == 2
