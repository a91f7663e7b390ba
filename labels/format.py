"""A dataset format: how it is recognized, read and written."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labels.dataset import Dataset
from labels.geometry import to_rings
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.reading.dataset_source import DatasetSource
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.export_folder import open_export
from labels.writing.export_report import ExportReport
from labels.writing.image_names import ImageNames, add_suffix
from labels.writing.renamed_list import RenamedList
from prompts.annotations import Polygon


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table in `labels.formats`.

    Attributes:
        title: The name that users see.
        recognized_by: How a dataset of this format looks on disk, for messages.
        recognize: Returns whether a source is a dataset of this format.
        read: Returns the dataset of a source that `recognize` accepts. Raises DatasetError.
        writer: The class that writes a dataset.
        suffix: The suffix of the one file that is written; None if the format is a folder.
    """

    title: str
    recognized_by: str
    recognize: Callable[[DatasetSource], bool]
    read: Callable[[DatasetSource], Dataset]
    writer: type[DatasetWriter]
    suffix: str | None = None

    @property
    def family(self) -> str:
        """The name of the format without its variants, such as YOLO."""
        return self.recognized_by.partition(" (")[0]

    def write(
        self,
        images: Iterable[LabeledImage],
        out: Path,
        *,
        copy_images: bool,
        as_folder: bool = False,
        on_left_out: Callable[[str, str], None] | None = None,
        get_name: Callable[[LabeledImage], str] = attrgetter("name"),
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> ExportReport:
        """Writes a dataset to `out`, completely or not at all. `copy_images` copies the images into it.

        Memory does not grow with the dataset, and the same images produce the same bytes. `on_left_out` is called with
        the image's name and the reason for everything that the format cannot hold. With `as_folder`, a format of one
        file is written to `out/labels` with its suffix, so that images can be copied too.

        An image is called `get_name(image)`, unless the format or the disk cannot hold that name. New names are in the
        report and in `renamed.csv`. `facts` are added to the report in the folder (`.florist`).

        An earlier export at `out` is replaced. Raises FileExistsError if anything else is there, ValueError if images
        cannot be copied into the format, and OSError if `out` cannot be written.
        """
        one_file = self.suffix is not None and not as_folder
        if copy_images and one_file:
            raise ValueError(f"{self.suffix} is one file and cannot contain images: export without them")
        report = ExportReport(on_left_out=on_left_out)
        with open_export(out, one_file=one_file, main_file=f"labels{self.suffix or ''}") as folder:
            writer = self.writer(folder, report, has_copies=copy_images)
            copies = writer.images_folder if copy_images and writer.is_read_beside else ""
            names = ImageNames(folder.root, writer.get_label_path, writer.to_holdable, copies)
            renamed = RenamedList(folder, report)
            for image in images:
                old_name, image = image.name, replace(image, name=get_name(image))
                data = b""
                if copy_images:
                    try:
                        data = image.read()
                    except (OSError, ImageError) as error:
                        report.leave_out_unreadable(old_name, error)
                        continue
                if not writer.keeps_degenerate_polygons:
                    image = _remove_degenerate_polygons(image, report)
                if image.samples and not writer.keeps_samples:
                    report.leave_out("prompts with answers", image.name, count=len(image.samples))
                name, doubts = image.name, list[str]()
                if copy_images or writer.sidecars:
                    name, doubts = names.choose(add_suffix(name, data) if copy_images else name)
                for doubt in (*doubts, *writer.list_doubts(name)):
                    report.warn(doubt, old_name)
                if name != old_name:
                    renamed.add(old_name, name)
                if copy_images:
                    folder.write(f"{writer.images_folder}/{name}", data)
                report.images += 1
                report.annotations += writer.add(image, name)
            writer.close()
            if not one_file:
                folder.write_marker({**report.to_dict(), **facts})
        return report


def _remove_degenerate_polygons(image: LabeledImage, report: ExportReport) -> LabeledImage:
    """Returns the image without polygons of fewer than three corners, which most readers refuse."""
    traces = image.traced_annotations
    drawable = [trace for trace in traces if not isinstance(trace.annotation, Polygon) or to_rings(trace.annotation)]
    if len(drawable) == len(traces):
        return image
    report.leave_out("polygons of fewer than three corners", image.name, count=len(traces) - len(drawable))
    return image.with_traces(*drawable)
