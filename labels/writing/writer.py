"""What every format's file brings: a writer of one dataset, picture by picture."""

from abc import ABC, abstractmethod
from pathlib import PurePosixPath
from typing import ClassVar

from labels.labeled_image import LabeledImage
from labels.writing.folder import Folder
from labels.writing.report import Report


class Writer(ABC):
    """Writes one dataset into `folder` and counts in `report`; of one use, and holds no picture and no label. `copies`:
    whether the pictures are copied into the folder.

    `pictures`: the subfolder for copies of the pictures; `sidecars`: subfolder and suffix of the files that accompany
    each picture, None where there are none; `lossless`: polygons that nobody can draw are written too.
    """

    pictures: ClassVar[str] = "images"
    sidecars: ClassVar[tuple[str, str] | None] = None
    lossless: ClassVar[bool] = False

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        self.folder, self.report, self.copies = folder, report, copies

    @abstractmethod
    def add(self, picture: LabeledImage, name: str) -> int:
        """Writes one picture; how many of its annotations were written. `name`: the path of its copy within
        `pictures`; without copies, of what lies in its place."""

    def sidecar(self, name: str, content: str) -> None:
        """Writes the file that accompanies the picture `name`."""
        assert self.sidecars is not None
        folder, suffix = self.sidecars
        self.folder.write(f"{folder}/{PurePosixPath(name).with_suffix(suffix)}", content)

    def close(self) -> None:  # noqa: B027 (most have something to say at the end, not all)
        """Writes what can be known only at the end."""
