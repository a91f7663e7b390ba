"""Names of splits."""

from pathlib import PurePath

import pytest

from labels.split_names import normalize_split, parse_split


@pytest.mark.parametrize(
    ("file", "name", "is_known"),
    [
        ("instances_val2017.json", "val2017", True),
        ("person_keypoints_train2014.json", "train2014", True),
        ("captions_Validation.json", "Validation", True),
        ("instances_night shift.json", "night shift", False),
        ("_annotations.coco.json", "", False),
        ("_annotations.train.jsonl", "train", True),
        ("my_dataset-train.json", "train", True),
        ("train_labels.jsonl", "train", True),
        ("labels_v2.json", "labels_v2", False),
        ("labels.json", "", False),
        ("instances.json", "", False),
        ("trained.json", "trained", False),
    ],
)
def test_the_split_that_a_file_describes(file: str, name: str, is_known: bool) -> None:
    split = parse_split(PurePath(file))
    assert (split.name, split.is_known) == (name, is_known)


def test_spellings_of_a_split_are_one() -> None:
    assert {normalize_split(name) for name in ("val", "Val", "valid", "Validation", "val2017", "VAL_2014")} == {"val"}
    assert normalize_split("2017") == "2017"
