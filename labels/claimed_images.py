"""The files of a dataset's images, and which of them two images cannot share."""

import os
from pathlib import Path

_MAX_SHOWN = 200  # characters of a name


class ClaimedImages:
    """The files that the images of a dataset have, to find out which ones no image can have.

    A file that is where one image's name says belongs to this image alone, and not to another one that has been moved.
    A file that fits two moved images belongs to neither.
    """

    def __init__(self) -> None:
        self._exact: dict[str, str] = {}
        self._moved: dict[str, dict[str, None]] = {}

    def add(self, name: str, path: Path, *, is_moved: bool) -> None:
        """Adds the file of an image. `name` is how the dataset calls it."""
        key = os.path.normpath(path)
        if is_moved:
            self._moved.setdefault(key, {})[name] = None
        else:
            self._exact[key] = name

    def find_conflicts(self) -> dict[str, str]:
        """Returns the moved images, by name, that cannot have their file, with the reason."""
        conflicts = dict[str, str]()
        for path, names in self._moved.items():
            others = [*([self._exact[path]] if path in self._exact else []), *names]
            if len(others) > 1:
                for name in names:
                    other = next((each for each in others if each != name), name)
                    conflicts[name] = (
                        f"there is no image {name[:_MAX_SHOWN]!r}; only {Path(path).name!r} is like it, which "
                        f"{other[:_MAX_SHOWN]!r} is too"
                    )
        return conflicts
