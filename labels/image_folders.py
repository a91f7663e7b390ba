"""Where the images of an annotation file are, in the layouts of the field.

Beside the file, as LabelMe, labelImg and Roboflow have them; in `images` (or `JPEGImages`, `data` …) there or beside
the file's folder, if that is called `annotations` (or `labels`, `xmls` …), with the same subfolders in both; and in the
folder of the file's split, such as `images/Train` or `val2017` for `annotations/instances_Train.json` and
`annotations/captions_val2017.json`.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from labels.image_suffixes import is_image_suffix
from labels.split_names import DISJOINT_SPLITS, normalize_split, parse_split

_IMAGE_FOLDERS = frozenset({"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "frames", "data"})
_DARKNET_FOLDER = re.compile("obj_.+_data")
_LABEL_FOLDERS = frozenset(
    {"annotations", "annotation", "anns", "ann", "labels", "label", "json", "jsons", "xml", "xmls", "labelme"}
)
_OTHER_FOLDERS = frozenset(
    {
        *("masks", "mask", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "trimaps", "gt"),
        *("depth", "thumbnails", "thumbs", "previews"),
    }
)


@dataclass(frozen=True, slots=True)
class ImageFolders:
    """Folders in which the images of one annotation file may be.

    Attributes:
        tiers: The folders that names are relative to, the most likely first. Folders of one tier are equally likely.
        own: The folders of the file's split. If there are any, its images are in no other folder, except beside it.
        nearest: The file's folder, and the same one among the folders of images. An image that has been moved is there
            rather than elsewhere.
        moved: The folders below which an image is looked for whose own path does not exist.
        split: `train`, `val` or `test` if the file describes one of them. Its images are not looked for in another's
            folders.
        others: Folders of other splits, and of datasets side by side. No image is looked for in them.
    """

    tiers: tuple[tuple[Path, ...], ...]
    own: tuple[Path, ...] = ()
    nearest: tuple[Path, ...] = ()
    moved: tuple[Path, ...] = ()
    split: str = ""
    others: tuple[frozenset[Path], ...] = ()

    @classmethod
    def from_folders(cls, *folders: Path) -> "ImageFolders":
        """Returns folders that are used in this order, and below which moved images are looked for."""
        return cls(
            tuple((folder,) for folder in dict.fromkeys(folders)), (), folders[:1], tuple(dict.fromkeys(folders))
        )


def is_label_folder(name: str) -> bool:
    """Returns whether a folder's name says that it has labels, masks or thumbnails rather than images."""
    name = name.casefold()
    return name in _LABEL_FOLDERS or name in _OTHER_FOLDERS or name.startswith("panoptic_")


def is_images_folder(name: str) -> bool:
    """Returns whether a folder's name says that it has images."""
    name = name.casefold()
    return name in _IMAGE_FOLDERS or _DARKNET_FOLDER.fullmatch(name) is not None


class ImageLayout:
    """The folders of the dataset in the folder `root`. Lists each of them once."""

    def __init__(self, root: Path, is_allowed: Callable[[str], bool] | None = None) -> None:
        """Only folders are listed that `is_allowed` accepts, by their resolved path; None accepts all."""
        self._root, self._is_allowed = root, is_allowed
        self._folders: dict[tuple[Path, str], ImageFolders] = {}
        self._subfolders: dict[Path, list[Path]] = {}
        self._beside: dict[tuple[Path, Path, str], frozenset[Path]] = {}

    def list_folders(self, file: Path, split: str = "", other_splits: Iterable[str] = ()) -> ImageFolders:
        """Returns the folders of the images that an annotation file names.

        Folders above the root are considered only if the root is a folder of labels, or is in one. `split` is the part
        of the dataset that the file describes. `other_splits` are known besides those of the files beside it.
        """
        key = file.parent, split
        if key not in self._folders:
            self._folders[key] = self._find_folders(
                Path(os.path.normpath(file.parent.absolute())), file.suffix, split, other_splits
            )
        return self._folders[key]

    def _find_folders(self, parent: Path, ending: str, split: str, other_splits: Iterable[str]) -> ImageFolders:
        base, rest = self._split_labels_folder(parent)
        places = list(dict.fromkeys((parent, base)))
        images = [
            folder for place in places for folder in self._list_subfolders(place) if is_images_folder(folder.name)
        ]
        own = self._find_split_folders([*places, *images], split) if split else []
        mirrored = [place / rest for place in (*images, base)] if rest.parts else []
        tiers, known = list[tuple[Path, ...]](), set[Path]()
        for tier in ([parent], own, mirrored, images, [base]):
            if new := tuple(folder for folder in dict.fromkeys(tier) if folder not in known):
                tiers.append(new)
                known.update(new)
        moved = own or [folder for folder in images if _has_images(folder)]
        others = list[frozenset[Path]]()
        if split and not own:
            split_names = {*other_splits, *(parse_split(file).name for file in self._list_files(parent, ending))}
            others.append(
                frozenset(
                    folder
                    for name in split_names - {"", split}
                    if normalize_split(name) != normalize_split(split)
                    for folder in self._find_split_folders([*places, *images], name)
                    if not is_images_folder(folder.name)
                )
            )
        if not moved:  # never above the dataset
            moved = [base if base.is_relative_to(self._root) and _has_images(base) else self._root]
        if moved == [self._root]:
            others += self._find_datasets_beside(parent, ending)
        below = parent.relative_to(self._root).parts if parent.is_relative_to(self._root) else ()
        names = [normalize_split(name) for name in (split, *reversed(below))]
        known_split = next((name for name in names if name in DISJOINT_SPLITS), "")
        return ImageFolders(tuple(tiers), tuple(own), (parent, *mirrored), tuple(moved), known_split, tuple(others))

    def _split_labels_folder(self, folder: Path) -> tuple[Path, Path]:
        """Returns the folder that has the last folder of labels in a path, and the path below the latter.

        Without a folder of labels, these are the folder itself and an empty path.
        """
        parts = folder.parts
        for at in range(len(parts) - 1, max(len(self._root.parts) - 3, -1), -1):
            if parts[at].casefold() in _LABEL_FOLDERS:
                first = at  # of folders of labels in folders of labels, such as annotations/xmls
                while first > 0 and parts[first - 1].casefold() in _LABEL_FOLDERS:
                    first -= 1
                return Path(*parts[:first]), Path(*parts[at + 1 :])
        return folder, Path()

    def _find_split_folders(self, places: Iterable[Path], split: str) -> list[Path]:
        subfolders = [each for place in dict.fromkeys(places) for each in self._list_subfolders(place)]
        same = [each for each in subfolders if each.name.casefold() == split.casefold()]
        similar = [each for each in subfolders if normalize_split(each.name) == normalize_split(split)]
        return [each for each in dict.fromkeys(same) if _has_images(each)] or [
            each for each in dict.fromkeys(similar) if _has_images(each)
        ]

    def _find_datasets_beside(self, parent: Path, ending: str) -> list[frozenset[Path]]:
        """Returns the folders that have labels in the same place as those above a folder of labels, and these."""
        found = []
        for above in parent.parents:
            if not above.is_relative_to(self._root):
                break
            key = above, Path(*parent.relative_to(above).parts[1:]), ending
            if key not in self._beside:
                folders = self._list_subfolders(above)
                self._beside[key] = frozenset(each for each in folders if self._list_files(each / key[1], ending))
            found.append(self._beside[key])
        return found

    def _list_files(self, folder: Path, ending: str) -> list[Path]:
        if self._may_list(folder):
            with suppress(OSError):
                return [path for path in folder.glob(f"*{ending}") if not path.name.startswith(".")]
        return []

    def _list_subfolders(self, folder: Path) -> list[Path]:
        if folder not in self._subfolders:
            names = list[str]()
            if self._may_list(folder):
                with suppress(OSError), os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
            self._subfolders[folder] = [path for name in names if self._may_list(path := folder / name)]
        return self._subfolders[folder]

    def _may_list(self, folder: Path) -> bool:
        return self._is_allowed is None or self._is_allowed(os.path.realpath(folder))


def _has_images(folder: Path) -> bool:
    """Returns whether there is an image in a folder or its subfolders."""
    for _, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not is_label_folder(name))
        if any(is_image_suffix(name) is not False and not name.startswith(".") for name in files):
            return True
    return False
