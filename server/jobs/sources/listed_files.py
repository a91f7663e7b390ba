"""The files of the images that a list on this machine names."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from labels.image_index import ImageNotFoundError, SeveralImagesError
from labels.image_resolver import ImageResolver, is_respelled, to_stem_key
from prompts.text import truncate
from server.jobs.sources.source import AccessCheck, SourceImageError, SourceImageFault


class ListedFiles:
    """Finds the images of a list, as `labels.image_resolver` does for datasets.

    An image that is not where the list says is looked for, in allowed folders only. It gets a file only if no other
    image of the list can be this file.
    """

    def __init__(
        self, file: Path, targets: Sequence[str], split: str, is_allowed: AccessCheck | None, exclude: Path | None
    ) -> None:
        """`targets` are the paths in the list; they may be added later. `split` is what the list describes."""
        self._folder, self._targets, self._is_allowed = file.parent, targets, is_allowed
        self._resolver = ImageResolver(file.parent, is_allowed=is_allowed, exclude=exclude)
        self._folders = self._resolver.layout.list_folders(file, split)
        self._lock = threading.Lock()
        self._by_stem: dict[str, list[str]] | None = None

    @property
    def folders(self) -> list[Path]:
        """The folders that paths are relative to."""
        return [folder for tier in self._folders.tiers for folder in tier]

    def is_refused(self, target: str) -> bool:
        """Returns whether the list names a file where the server may not read."""
        if self._is_allowed is None:
            return False
        try:
            return not self._is_allowed(os.path.realpath(self._folder / target))
        except (OSError, ValueError):  # such as a zero byte
            return False

    def find_exact(self, target: str) -> str | None:
        """Returns the file that is where the list says; None if there is none. Raises SourceImageError."""
        try:
            path = self._resolver.find_exact(target, self._folders)
        except ImageNotFoundError as error:
            raise SourceImageError(str(error), SourceImageFault.MISSING) from error
        return None if path is None else str(path)

    def find(self, target: str) -> str:
        """Returns the file of an image. Raises SourceImageError."""
        exact = self.find_exact(target)
        if exact is not None and not is_respelled(target, Path(exact)):
            return exact
        with self._lock:
            path = Path(exact) if exact is not None else self._find_moved(target)
            rival = next((each for each in self._list_rivals(target, path) if self._is_file_of(each, path)), None)
        if rival is not None:
            reason = (
                f"there is no such file; the only one like it, {path.name}, is also the image {truncate(rival, 80)!r}"
            )
            raise SourceImageError(reason, SourceImageFault.MISSING)
        return str(path)

    def _find_moved(self, target: str) -> Path:
        try:
            return self._resolver.find_moved(target, self._folders).path
        except SeveralImagesError as error:
            raise SourceImageError(str(error), SourceImageFault.MISSING) from error
        except ImageNotFoundError as error:
            # Without saying whether there is a file where the server may not read.
            if self.is_refused(target):
                reason = "this server is not configured to read from there"
                raise SourceImageError(reason, SourceImageFault.REFUSED) from error
            if os.path.isdir(self._folder / target):  # noqa: PTH112 - also for names that are too long
                raise SourceImageError("it is a folder", SourceImageFault.BROKEN) from error
            raise SourceImageError("there is no such file", SourceImageFault.MISSING) from error

    def _is_file_of(self, target: str, path: Path) -> bool:
        try:
            return path == (self._resolver.find_exact(target, self._folders) or self._find_moved(target))
        except OSError:
            return False

    def _list_rivals(self, target: str, path: Path) -> list[str]:
        """Returns the other images of the list that may have a file."""
        if self._by_stem is None:
            self._by_stem = {}
            for each in self._targets:
                self._by_stem.setdefault(to_stem_key(each), []).append(each)
        return [other for other in self._by_stem.get(to_stem_key(path.name), ()) if other != target]
