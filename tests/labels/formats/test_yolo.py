from collections.abc import Callable
from pathlib import Path

import pytest

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon

Save = Callable[..., Path]
DATA = "train: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n"


def test_boxes_and_polygons_of_all_splits(save: Save) -> None:
    root = save("data.yaml", DATA).parent
    save("images/train/a.png"), save("images/train/deep/b.PNG"), save("images/val/c.png")
    save("labels/train/a.txt", "0 0.5 0.5 0.2 0.5\n1 0.1 0.1 0.5 0.1 0.5 0.5\n\n")
    save("labels/val/c.txt", "1 0.5 0.5 1 1 0.87")
    for path in (root, root / "data.yaml"):
        dataset = open_dataset(path)
        assert dataset.unusable == ()
        assert [each.name for each in dataset.images] == [
            "images/train/a.png", "images/train/deep/b.PNG", "images/val/c.png",
        ]  # fmt: skip
        a, b, c = dataset.images
        assert a.annotations[0] == Box(label="cat", box=(40, 20, 60, 60))
        assert a.annotations[1] == Polygon(label="dog", polygons=[[10, 8, 50, 8, 50, 40]])
        assert a.source == "labels/train/a.txt"
        # Without a file there is nothing in it; a fifth number is a score.
        assert (b.annotations, b.complete) == ((), {LabelKind.OBJECTS})
        assert c.annotations == (Box(label="dog", box=(0, 0, 100, 80)),)


def test_a_part_of_a_dataset_and_roboflows_paths(save: Save) -> None:
    root = save("data.yaml", "train: ../train/images\nval: ../valid/images\nnames: [cat]\n").parent
    for split in ("train", "valid"):
        save(f"{split}/images/a.png")
        save(f"{split}/labels/a.txt", "0 0.5 0.5 0.2 0.5")
    assert [each.name for each in open_dataset(root).images] == ["train/images/a.png", "valid/images/a.png"]
    for part in (root / "valid", root / "valid" / "images"):
        assert [each.name for each in open_dataset(part).images] == ["valid/images/a.png"]


def test_classes_in_a_text_file_and_lists_of_pictures(save: Save) -> None:
    save("images/a.png")
    save("labels/a.txt", "1 0.5 0.5 0.2 0.5")
    root = save("classes.txt", "cat\nfire hydrant\n").parent
    assert open_dataset(root).classes == ("fire hydrant",)
    save("data.yaml", f"path: {root}\ntrain: list.txt\nnames: [cat, dog]\n")
    save("list.txt", "./images/a.png\n\n")
    assert open_dataset(root).classes == ("dog",)


def test_key_points_are_left_out(save: Save) -> None:
    save("images/a.png")
    save("labels/a.txt", "0 0.5 0.5 0.2 0.5 0.1 0.1 2 0.2 0.2 2")
    root = save("data.yaml", "train: images\nnames: [person]\nkpt_shape: [2, 3]\n").parent
    assert open_dataset(root).images[0].annotations == (Box(label="person", box=(40, 20, 60, 60)),)


def test_what_cannot_be_used_is_listed_by_file_and_line(save: Save) -> None:
    root = save("data.yaml", DATA).parent
    save("images/train/a.png"), save("images/train/b.png", "no picture"), save("images/train/d.png")
    lines = [
        "0 0.5 0.5 0.2 0.5",
        "2 0.5 0.5 0.2 0.5",
        "0 0.5 0.5 0.2",
        "0 0.5 0.5 0.2 nan",
        "0 0.5 0.5 0.2 -0.5",
        "0 0.5 0.5 0 0.5",
        "x 0.5 0.5 0.2 0.5",
        "0 1.5 0.5 0.2 0.5",
        "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1",
        "0.5 0.5 0.5 0.2 0.5",
    ]
    save("labels/train/a.txt", "\n".join(lines))
    save("labels/train/c.txt", lines[0])
    save("labels/train/d.txt", b"\xff\xfe")
    dataset = open_dataset(root)
    assert [len(each.annotations) for each in dataset.images] == [1]
    assert [each.source for each in dataset.unusable] == [
        *(f"labels/train/a.txt:{line}" for line in range(2, 11)),
        "labels/train/b.txt",
        "labels/train/d.txt",
        "labels/train/c.txt",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("names: [cat\n", "data.yaml:2 is not YAML"),
        ("train: images\n", "has no `names`"),
        ("- 1", "has no `names`"),
        ("names: [cat]\ntrain: nowhere\n", "names no folder with images"),
        ("names: [cat]\n", "names no folder with images: no folder"),
        ("!!python/object/apply:os.system [ls]", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_descriptions_that_say_nothing_of_use(save: Save, content: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        open_dataset(save("data.yaml", content).parent)
