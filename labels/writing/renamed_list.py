"""`renamed.csv` of an export: the images whose name differs from that of their source."""

import csv
from functools import cached_property
from typing import Any

from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import RENAMED_FILE, ExportReport
from labels.writing.image_names import remove_images_folders


class RenamedList:
    """Counts renamed images in the report, and lists them. The file exists only if there is one."""

    def __init__(self, folder: ExportFolder, report: ExportReport) -> None:
        self._folder, self._report = folder, report

    def add(self, old: str, new: str) -> None:
        """Adds an image by its old and new name."""
        if new == remove_images_folders(old):
            self._report.shorten(old, new)
        else:
            self._report.rename(old, new)
        self._rows.writerow((old, new))

    @cached_property
    def _rows(self) -> Any:
        rows = csv.writer(self._folder.open(RENAMED_FILE), lineterminator="\n")
        rows.writerow(("name", "new_name"))
        return rows
