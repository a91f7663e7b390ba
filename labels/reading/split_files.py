"""The files of a dataset that describe its splits, such as instances_train.json and instances_val.json."""

import os
from collections.abc import Sequence
from pathlib import Path

from labels.image_folders import is_label_folder
from labels.reading.dataset_source import DatasetSource
from labels.split_names import is_split_name, parse_split


class SplitFiles:
    """The annotation files of one dataset, each of which describes a split, or something else about the same images."""

    def __init__(self, files: Sequence[Path], source: DatasetSource) -> None:
        self._files, self._source = files, source
        self._parts = {file: self._name_part(file) for file in files}
        self._are_several = len(set(self._parts.values())) > 1
        self._are_known = {part: not part or is_split_name(part[-1]) for part in self._parts.values()}
        self._images: dict[Path, tuple[str, ...]] = {}

    def get_source(self, file: Path) -> str:
        """Returns how messages call a file: its name, with its folder if files of several folders are read."""
        return Path(os.path.relpath(file, self._source.folder)).as_posix() if self._are_several else file.name

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
        parts = Path(os.path.relpath(file.parent, self._source.folder)).parts
        folders = [name for name in parts if name != ".." and not is_label_folder(name)]
        beside = {parse_split(other) for other in self._files if other.parent == file.parent}
        split = parse_split(file)
        if len(beside) > 1 and split.name and folders[-1:] != [split.name]:
            folders.append(split.name)
        return tuple(folders)
