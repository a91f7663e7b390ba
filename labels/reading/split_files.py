"""The files of a dataset that describe its splits, such as instances_train.json and instances_val.json."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from labels.image_folders import is_label_folder
from labels.reading.dataset_source import DatasetSource

_SPLIT = r"(?:train|training|val|valid|validation|test|testing|test-dev|dev|minival|valminusminival|trainval|default)"
_SPLIT_NAME = re.compile(rf"{_SPLIT}(?:[-_]?(?:19|20)\d\d)?", re.IGNORECASE)
_SPLIT_TOKEN = re.compile(rf"(?:^|[_. -])({_SPLIT_NAME.pattern})(?=$|[_. -])", re.IGNORECASE)
# What COCO's files are about: several files of one split have different beginnings.
_KIND = re.compile(r"(instances|captions|person_keypoints|keypoints|panoptic|stuff|image_info)(?:_|$)", re.IGNORECASE)


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
    elif is_label_folder(stem):
        stem = ""  # labels.jsonl describes no split called `labels`
    return SplitName(stem, _SPLIT_NAME.fullmatch(stem) is not None)


class SplitFiles:
    """The annotation files of one dataset, each of which describes a split, or something else about the same images."""

    def __init__(self, files: Sequence[Path], source: DatasetSource) -> None:
        self._files, self._source = files, source
        self._parts = {file: self._name_part(file) for file in files}
        self._are_several = len(set(self._parts.values())) > 1
        self._are_known = {part: not part or bool(_SPLIT_NAME.fullmatch(part[-1])) for part in self._parts.values()}
        self._images: dict[Path, tuple[str, ...]] = {}

    def get_source(self, file: Path) -> str:
        """Returns how messages call a file: its name, with its folder if files of several folders are read."""
        return file.relative_to(self._source.folder).as_posix() if self._are_several else file.name

    def get_split(self, file: Path) -> str:
        """Returns the split that a file describes."""
        return parse_split(file).name

    def get_prefix(self, file: Path) -> str:
        """Returns what the names of a file's images begin with: the splits, if there are several."""
        return "".join(f"{part}/" for part in self._parts[file]) if self._are_several else ""

    def check_image(self, file: Path, image: Path) -> None:
        """Raises DatasetError if another file describes an image, too, and it is not another split.

        Two versions of one dataset look like this.
        """
        if not self._are_several:
            return
        part = self._parts[file]
        other = self._images.setdefault(image, part)
        if other != part and not (self._are_known[part] and self._are_known[other]):
            raise self._source.make_several_error(self._files)

    def _name_part(self, file: Path) -> tuple[str, ...]:
        """Returns the names of a file's folder, without those of all datasets, and of its split."""
        folders = [name for name in file.parent.relative_to(self._source.folder).parts if not is_label_folder(name)]
        beside = {parse_split(other) for other in self._files if other.parent == file.parent}
        split = parse_split(file)
        if len(beside) > 1 and split.name and folders[-1:] != [split.name]:
            folders.append(split.name)
        return tuple(folders)
