"""`details.jsonl` of an export: what its format has no place for.

It has a line for each image of which something is in it: the `name` of the image in the dataset and its `file` there,
its `labels` as in JSON lines, each with `is_written` (whether the dataset has the annotation without the details), and
its `regions` and `samples`. florist reads it together with the dataset.
"""

import posixpath
from functools import cached_property
from typing import Any

from labels.labeled_image import LabeledImage
from labels.writing.dataset_writer import DETAILS_FILE, DatasetWriter
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.json_array import to_json_line
from labels.writing.label_rows import to_label_row, to_sample_row


class DetailsFile:
    """Writes the details of one export. The file exists only if there are any."""

    def __init__(self, folder: ExportFolder, report: ExportReport) -> None:
        self._folder, self._report = folder, report

    def add(self, image: LabeledImage, name: str, writer: DatasetWriter) -> None:
        """Writes what the writer has left out of an image. `name`: that of the image in the dataset."""
        row: dict[str, Any] = {}
        if labels := writer.pop_left_out():
            row["labels"] = [{**to_label_row(traced), "is_written": is_written} for traced, is_written in labels]
        if image.regions and not writer.keeps_regions:
            row["regions"] = list(map(to_label_row, image.regions))
            self._report.place(DETAILS_FILE, "regions with a phrase", len(image.regions))
        if image.samples and not writer.keeps_samples:
            row["samples"] = list(map(to_sample_row, image.samples))
            self._report.place(DETAILS_FILE, "prompts with answers", len(image.samples))
        if row:
            file = posixpath.normpath(f"{writer.images_folder}/{name}")
            self._file.write(to_json_line({"name": name, "file": file, **row}) + "\n")

    @cached_property
    def _file(self) -> Any:
        return self._folder.open(DETAILS_FILE)
