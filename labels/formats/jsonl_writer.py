"""JSON lines: a picture a line, with everything that is known of its labels; nothing is rounded and nothing left out.

{"name": "a/b.jpg", "sha256": "…", "width": 640, "height": 480, "labels": [{"annotation": {"kind": "box", …},
 "step": "detect", "prompt": "…", "raw": "…", "model": "…", "adapter": null, "review": "", "parent": null}, …]}
"""

from typing import ClassVar

from labels.labeled_image import LabeledImage
from labels.writing.arrays import line
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer

_PICTURE = ("name", "sha256", "width", "height")
_LABEL = ("step", "prompt", "raw", "model", "adapter", "review", "parent")


class JsonlWriter(Writer):
    """See the file."""

    lossless: ClassVar[bool] = True

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._file = folder.stream()

    def add(self, picture: LabeledImage, name: str) -> int:
        labels = [
            {"annotation": label.annotation.model_dump(), **{field: getattr(label, field) for field in _LABEL}}
            for label in picture.traced_annotations
        ]
        self._file.write(line({**{field: getattr(picture, field) for field in _PICTURE}, "labels": labels}) + "\n")
        return len(labels)
