"""Finds the image files that a dataset or a list names.

An image is the file whose path the name is, in the first of its folders that has it. Names from other systems are read
as they were meant: with backslashes, percent-encoded, in the other normal form of Unicode. If there is no such file,
the image may have been moved: the only file fits that has the same name, with the most of its folders; or the same name
without its suffix; or the same name without the prefix of a Label Studio upload. If several files fit equally well,
none is taken.
"""

import os
import posixpath
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from labels.image_folders import ImageFolders, ImageLayout
from labels.image_index import (
    ImageIndex,
    ImageNotFoundError,
    SeveralImagesError,
    count_shared,
    fold_name,
    is_image_file,
    normalize_name,
)
from labels.image_suffixes import is_image_suffix
from labels.split_names import DISJOINT_SPLITS, normalize_split

_SHOWN = 3  # files in a message
_MAX_SHOWN_NAME = 200  # characters
_UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")  # of Label Studio
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class FoundImage:
    """The file of an image.

    Attributes:
        path: The file.
        name: The image's name in its dataset: relative, with forward slashes and no `..`.
        moved_from: The name that the dataset has for the image, if its file is not there, or is called so only in
            another spelling. Another image may have a better claim to the file.
        stated: The name as the dataset writes it, if `name` is not made from it.
    """

    path: Path
    name: str
    moved_from: str = ""
    stated: str = ""


class ImageResolver:
    """Finds the images of the dataset in the folder `root`. Lists the folder once, when the first image is missing.

    Only files are found that `is_allowed` accepts, by their resolved path; None accepts all. Images that have been
    moved are not looked for in the folder `exclude`.
    """

    def __init__(
        self, root: Path, *, is_allowed: Callable[[str], bool] | None = None, exclude: Path | None = None
    ) -> None:
        self.root = Path(os.path.normpath(root.absolute()))
        self.layout = ImageLayout(self.root, is_allowed)
        self._is_allowed, self._exclude = is_allowed, exclude
        self._indexes: dict[Path, ImageIndex] = {}
        self._stems: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str, folders: ImageFolders) -> FoundImage:
        """Returns the file of the image `name`. Raises ImageNotFoundError."""
        if path := self.find_exact(name, folders):
            return FoundImage(path, self._to_name(name, path), name if is_respelled(name, path) else "")
        return self.find_moved(name, folders)

    def find_exact(self, name: str, folders: ImageFolders) -> Path | None:
        """Returns the file that a name is the path of, in any spelling; None if there is none.

        Raises ImageNotFoundError if several folders that are equally likely have such a file.
        """
        for spelling in list_spellings(name):
            for tier in folders.tiers:
                found = [path for folder in tier if (path := self._join(folder, spelling)) is not None]
                if len(found) > 1:
                    found = _remove_links(found)
                if len(found) > 1:
                    raise self._make_several_error(name, found)
                if found and (not folders.own or tier is folders.tiers[0] or _is_below(found[0], folders.own)):
                    return found[0]
        return None

    def find_moved(self, name: str, folders: ImageFolders) -> FoundImage:
        """Returns the only file that fits a name, anywhere below the `moved` folders. Raises ImageNotFoundError."""
        is_url = "://" in name and not name.lower().startswith("file:")
        *parents, last = _to_parts(re.sub(r"[?#].*", "", name) if is_url else name) or [""]
        below = self._find_stated_folders(parents, folders)
        if below[:1] == [(folders.moved[0], folders.moved[0])]:
            nearest = _remove_links([path for folder in folders.nearest if (path := self._join(folder, last))])
            if len(nearest) == 1:
                return FoundImage(nearest[0], self._to_name(last, nearest[0]), name)
        for candidate in dict.fromkeys((last, remove_upload_prefix(last))):
            for by_stem in (False, True):
                found = [
                    path
                    for path in self._find_similar(candidate, parents, below, by_stem=by_stem)
                    if not _is_of_others(path, parents, folders)
                ]
                if len(found) > 1:
                    found = _remove_links(found)
                if len(found) > 1:
                    raise self._make_several_error(name, found)
                if found:
                    folder = next(each for each in folders.moved if found[0].is_relative_to(each))
                    return FoundImage(found[0], found[0].relative_to(folder).as_posix(), name)
        places = dict.fromkeys(str(folder) for tier in folders.tiers for folder in tier)
        for place in places:
            if reason := describe_broken_link(Path(place, name)):
                raise ImageNotFoundError(f"{name[:_MAX_SHOWN_NAME]} is {reason}")
        raise ImageNotFoundError(f"there is no image {name[:_MAX_SHOWN_NAME]!r} in {' or '.join(places)}")

    def find_beside(self, stem: Path, folders: ImageFolders, name: str = "") -> FoundImage | None:
        """Returns the image that has the name `stem`, apart from its suffix, in the first folder that has one.

        `name` decides between images with different suffixes. Raises ImageNotFoundError if it does not.
        """
        for tier in folders.tiers:
            found = [path for folder in tier for path in self._list_stem(folder / stem.parent, stem.name)]
            if len(found) > 1:
                last = _to_parts(name)[-1:]
                found = _remove_links([path for path in found if [path.name] == last] or found)
            if len(found) > 1:
                raise self._make_several_error(str(stem), found)
            if found:
                return FoundImage(found[0], self._to_name(str(stem.parent / found[0].name), found[0]))
        return None

    def find_partner(self, file: Path, name: str, folders: ImageFolders) -> FoundImage:
        """Returns the image `name` that a file of labels is about, or the only one that has the name of this file.

        Raises ImageNotFoundError.
        """
        try:
            return self.find(name, folders)
        except SeveralImagesError:
            raise
        except ImageNotFoundError:
            if beside := self.find_beside(Path(file.stem), folders):
                return replace(beside, moved_from=name or file.stem)
            with suppress(ImageNotFoundError):
                stem = Path(os.path.relpath(file.parent, self.root), file.stem)
                return replace(self.find_moved(stem.as_posix(), folders), moved_from=name or file.stem)
            raise

    def _find_stated_folders(self, parents: list[str], folders: ImageFolders) -> list[tuple[Path, Path]]:
        """Returns the folders to look in, each with the indexed folder that contains it.

        If folders with the name's own exist, the image has not been moved to another one.
        """
        wanted = [fold_name(part) for part in parents]
        for start in range(len(wanted)):
            stated = [
                (folder, path)
                for folder in folders.moved
                for path in self._get_index(folder).find_folders(wanted[start:])
            ]
            if stated:
                return stated
        return [(folder, folder) for folder in folders.moved]

    def _find_similar(
        self, last: str, parents: list[str], below: list[tuple[Path, Path]], *, by_stem: bool
    ) -> list[Path]:
        """Returns the files with the name `last` (or the same without its suffix) that share most of their folders."""
        best, fitting = 0, list[Path]()
        wanted = [fold_name(part) for part in parents]
        for folder, stated in below:
            for path in self._get_index(folder).find(last, by_stem=by_stem):
                if not path.is_relative_to(stated) or path in fitting or not self._is_usable(path, by_stem):
                    continue
                shared = count_shared([fold_name(part) for part in path.parts[-1 - len(wanted) : -1]], wanted)
                if shared > best:
                    best, fitting = shared, []
                if shared == best:
                    fitting.append(path)
        return [path for path in fitting if path.name == last] or fitting

    def _is_usable(self, path: Path, by_stem: bool) -> bool:
        return self._may_open(path) and (not by_stem or is_image_file(path))

    def _may_open(self, path: Path) -> bool:
        return self._is_allowed is None or self._is_allowed(os.path.realpath(path))

    def _join(self, folder: Path, name: str) -> Path | None:
        """Returns the file `name` in a folder; None if there is none."""
        with suppress(OSError, ValueError):  # the name is too long or has a zero byte
            if self._may_open(path := folder / name) and path.is_file():
                return path
        return None

    def _list_stem(self, folder: Path, stem: str) -> list[Path]:
        if folder not in self._stems:
            listed: dict[str, list[str]] = {}
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(".") and is_image_suffix(entry.name) is not False and entry.is_file():
                        listed.setdefault(normalize_name(posixpath.splitext(entry.name)[0]), []).append(entry.name)
            self._stems[folder] = {key: sorted(names) for key, names in listed.items()}
        return [
            path for name in self._stems[folder].get(normalize_name(stem), ()) if is_image_file(path := folder / name)
        ]

    def _get_index(self, folder: Path) -> "ImageIndex":
        if folder not in self._indexes:
            self._indexes[folder] = ImageIndex(folder, self._exclude, self._is_allowed)
        return self._indexes[folder]

    def _to_name(self, name: str, path: Path) -> str:
        """Returns the name of an image: as the dataset writes it, without what no relative path has."""
        parts = _to_parts(name)
        is_plain = parts and not name.startswith(("/", "\\")) and len(parts) == len(name.replace("\\", "/").split("/"))
        if is_plain and not _DRIVE.fullmatch(parts[0]):
            return "/".join(parts)
        real = Path(os.path.normpath(path))
        if real.is_relative_to(self.root):
            return real.relative_to(self.root).as_posix()
        return "/".join(part for part in parts if not _DRIVE.fullmatch(part))

    def _make_several_error(self, name: str, found: Sequence[Path]) -> SeveralImagesError:
        shown = ", ".join(os.path.relpath(path, self.root) for path in sorted(found)[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return SeveralImagesError(f"several images fit {name[:_MAX_SHOWN_NAME]!r}: {shown}{more}")


def describe_broken_link(path: Path) -> str:
    """Returns what a path is if it is a symbolic link to nothing; otherwise an empty text."""
    with suppress(OSError, ValueError):
        if path.is_symlink() and not path.exists():
            return f"a link to {path.readlink()}, which does not exist"
    return ""


def to_stem_key(name: str) -> str:
    """Returns what the names have in common that may be of one file, moved or not: the last part without its suffix."""
    last = remove_upload_prefix((_to_parts(name) or [""])[-1])
    return fold_name(posixpath.splitext(last)[0] if is_image_suffix(last) else last)


def remove_upload_prefix(name: str) -> str:
    """Returns the name of a file without what Label Studio puts before the name of an upload."""
    return _UPLOAD_PREFIX.sub("", name, count=1)


def list_spellings(name: str) -> Iterable[str]:
    """Returns the ways in which a name may be meant, the name as it is first."""
    spellings = [name]
    if "\\" in name:
        spellings.append(name.replace("\\", "/"))
    if name.lower().startswith("file:"):
        spellings.append(urllib.parse.unquote(re.sub("^file:(//[^/]*)?", "", name, flags=re.IGNORECASE)))
    if "%" in name:
        spellings += [urllib.parse.unquote(spelling) for spelling in spellings]
    if not name.isascii() or "%" in name:
        spellings += [unicodedata.normalize(form, each) for form in ("NFC", "NFD") for each in tuple(spellings)]
    return dict.fromkeys(filter(None, spellings))


def is_respelled(name: str, path: Path) -> bool:
    """Returns whether a file is called like a name only when that is decoded or normalized."""
    plain = os.path.normpath("/" + name.replace("\\", "/").lstrip("/"))
    return not name.lower().startswith("file:") and not os.path.normpath(path).endswith(plain)


def _to_parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(Path(os.path.normpath(path)).is_relative_to(folder) for folder in folders)


def _is_of_others(path: Path, parents: Sequence[str], folders: ImageFolders) -> bool:
    """Returns whether a file is in a folder of another dataset or split than the one that an image's name states, or
    else the one whose images are in `folders`."""
    folder = next(each for each in folders.moved if path.is_relative_to(each))
    labels, *_ = folders.nearest
    for above in path.relative_to(folder).parents:
        other = folder / above
        if any(other in each for each in folders.others) and not labels.is_relative_to(other):
            return fold_name(other.name) not in map(fold_name, parents)
    own, stated = _find_split(path.relative_to(folder).parts[:-1]), _find_split(parents) or folders.split
    return bool(own and stated and own != stated)


def _find_split(names: Sequence[str]) -> str:
    """Returns the innermost folder that is called after a split, as all spellings of it; empty if there is none."""
    return next((split for split in map(normalize_split, reversed(names)) if split in DISJOINT_SPLITS), "")


def _remove_links(paths: Sequence[Path]) -> list[Path]:
    """Returns one path of each file."""
    return list({os.path.realpath(path): path for path in reversed(paths)}.values())
