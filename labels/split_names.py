"""Names of splits, such as train and val2017: in the names of files, and in different spellings."""

import re
from dataclasses import dataclass
from pathlib import PurePath

DISJOINT_SPLITS = frozenset({"train", "val", "test"})
"""Splits that share no image. Others may, such as COCO's minival2014 and val2014."""

_YEAR = re.compile(r"[-_]?(19|20)\d\d$")
_SPLIT_WORDS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
_SPLIT = r"(?:train|training|val|valid|validation|test|testing|test-dev|dev|minival|valminusminival|trainval|default)"
_SPLIT_NAME = re.compile(rf"{_SPLIT}(?:[-_]?(?:19|20)\d\d)?", re.IGNORECASE)
_SPLIT_TOKEN = re.compile(rf"(?:^|[_. -])({_SPLIT_NAME.pattern})(?=$|[_. -])", re.IGNORECASE)
_NO_SPLITS = ("labels", "annotations", "coco", "tasks", "metadata", "data", "dataset", "export", "result")
# What COCO's files are about: several files of one split have different beginnings.
_KIND = re.compile(
    r"(instances|captions|words|person_keypoints|keypoints|panoptic|stuff|image_info)(?:_|$)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class SplitName:
    """The split that a file describes. `is_known`: whether it has a usual name, such as train, and not any other."""

    name: str
    is_known: bool


def parse_split(file: PurePath) -> SplitName:
    """Returns the split that the name of a file says, such as val2017 for captions_val2017.json.

    Without a split, this is the name of the file; or empty for a name such as instances.json, which says nothing.
    """
    stem = file.stem.removesuffix(".coco").removeprefix("_annotations").removeprefix(".")
    if kind := _KIND.match(stem):
        stem = stem[kind.end() :]
    elif token := _SPLIT_TOKEN.search(stem):
        stem = token[1]
    elif stem.casefold() in _NO_SPLITS:
        stem = ""
    return SplitName(stem, is_split_name(stem))


def is_split_name(name: str) -> bool:
    """Returns whether a name is usual for a split."""
    return _SPLIT_NAME.fullmatch(name) is not None


def normalize_split(split: str) -> str:
    """Returns the name that spellings of a split share: `val` for Validation, valid and val2017."""
    name = _YEAR.sub("", split.casefold()) or split.casefold()
    return _SPLIT_WORDS.get(name, name)
