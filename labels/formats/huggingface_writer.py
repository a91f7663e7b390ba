"""A folder that `datasets.load_dataset` reads: metadata.jsonl, images/ and a README.md that says the columns' types.

A row has `objects`, a list for each of their fields (`box`: x1, y1, x2, y2; `polygons`: rings, of a box none), and
`captions`. Without copies of the pictures there is no `image`, but `file_name`.
"""

from typing import Any

import yaml

from labels.geometry import bounds, to_rings
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing.arrays import line
from labels.writing.categories import category_of
from labels.writing.folder import Folder
from labels.writing.report import Report
from labels.writing.writer import Writer
from prompts.annotations import Box, Quad, Text

_STRING, _NUMBER = {"dtype": "string"}, {"dtype": "float64"}


class HuggingFaceWriter(Writer):
    """See the file."""

    def __init__(self, folder: Folder, report: Report, *, copies: bool) -> None:
        super().__init__(folder, report, copies=copies)
        self._file = folder.stream("metadata.jsonl")

    def add(self, picture: LabeledImage, name: str) -> int:
        row = {
            "file_name": f"images/{name}" if self.copies else name,
            "name": picture.name,
            "width": picture.width,
            "height": picture.height,
            "objects": [
                _object(label) for label in picture.traced_annotations if not isinstance(label.annotation, Text)
            ],
            "captions": [_caption(label) for label in picture.traced_annotations if isinstance(label.annotation, Text)],
        }
        self._file.write(line(row) + "\n")
        return len(picture.traced_annotations)

    def close(self) -> None:
        self.folder.write("README.md", f"---\n{yaml.safe_dump(_card(self.copies), sort_keys=False)}---\n")


def _object(label: TracedAnnotation) -> dict[str, Any]:
    note = label.annotation
    assert not isinstance(note, Text)
    outlines = to_rings(note)
    return {
        "kind": note.kind,
        "category": category_of(note),
        "text": note.label if isinstance(note, Quad) else None,
        "box": list(bounds(outlines)),
        "polygons": [] if isinstance(note, Box) else outlines,
        "score": note.score,
        "review": label.review,
    }


def _caption(label: TracedAnnotation) -> dict[str, Any]:
    return {"text": label.annotation.label, "score": label.annotation.score, "step": label.step}


def _card(copies: bool) -> dict[str, Any]:
    """What stands at the head of README.md: which files hold the data, and the columns' types, which a reader would
    else guess from the first rows."""
    objects = [
        *({"name": name, **_STRING} for name in ("kind", "category", "text")),
        {"name": "box", "list": "float64"},
        {"name": "polygons", "list": {"list": "float64"}},
        {"name": "score", **_NUMBER},
        {"name": "review", **_STRING},
    ]
    captions = [{"name": "text", **_STRING}, {"name": "score", **_NUMBER}, {"name": "step", **_STRING}]
    features = [
        {"name": "image", "dtype": "image"} if copies else {"name": "file_name", **_STRING},
        {"name": "name", **_STRING},
        {"name": "width", "dtype": "int64"},
        {"name": "height", "dtype": "int64"},
        {"name": "objects", "list": objects},
        {"name": "captions", "list": captions},
    ]
    files = ["metadata.jsonl", "images/**"] if copies else ["metadata.jsonl"]
    return {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": files}]}],
        "dataset_info": {"features": features},
    }
