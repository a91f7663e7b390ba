"""A dataset format: how it is recognized, read and written."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from labels.dataset import Dataset
from labels.geometry import to_rings
from labels.image_files import ImageFile
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.reading.dataset_source import DatasetSource
from labels.writing.dataset_writer import DatasetWriter
from labels.writing.details_file import DetailsFile
from labels.writing.export_folder import open_export
from labels.writing.export_report import ExportReport
from labels.writing.image_names import ImageNames, add_suffix, has_image_suffix
from labels.writing.image_options import ImageOptions, ImagePlacement
from labels.writing.renamed_list import RenamedList
from prompts.annotations import Polygon

PLACEMENT_KEY = "image_placement"
"""In the report of an export (`.florist`): how the images are in it."""

_SYMBOLIC = "images that are symbolic links, which Datumaro and supervision refuse: hard links to them are not possible"
_COPIED_INSTEAD = "images that are copies, because they are no files on this machine that a link can name"


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

    def choose_placement(self, chosen: ImagePlacement | None, image_url: str | None = None) -> ImagePlacement:
        """Returns how the images are in a dataset: as `chosen`, or as the tools of the format need them.

        Tools that get the addresses of the images do not need them in the dataset.
        """
        if chosen is not None:
            return chosen
        has_urls = image_url is not None and self.writer.holds_urls
        return ImagePlacement.NONE if has_urls else self.writer.default_placement

    def check_options(self, placement: ImagePlacement, image_url: str | None, *, as_folder: bool = False) -> None:
        """Raises ValueError if the format has no place for the images, or for their addresses."""
        if placement is not ImagePlacement.NONE and self.suffix is not None and not as_folder:
            raise ValueError(f"{self.suffix} is one file and cannot contain images: export without them")
        if image_url is not None and not self.writer.holds_urls:
            raise ValueError(f"{self.family} has no place for the addresses of images")

    def write(
        self,
        images: Iterable[LabeledImage],
        out: Path,
        placement: ImagePlacement = ImagePlacement.NONE,
        *,
        image_url: str | None = None,
        as_folder: bool = False,
        on_left_out: Callable[[str, str], None] | None = None,
        get_name: Callable[[LabeledImage], str] = attrgetter("name"),
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> ExportReport:
        """Writes a dataset to `out`, completely or not at all.

        `placement` says whether the images are in it: as copies, as links, or not. An image that is no file on this
        machine is copied in place of a link, and counted. With `image_url`, a format that holds addresses gets
        `image_url` and the percent-encoded name as the address of each image.

        Memory does not grow with the dataset, and the same images produce the same bytes. What the format has no
        place for is in `details.jsonl`, and counted. `on_left_out` is called with the image's name and the reason for
        everything that is in no file. With `as_folder`, a format of one
        file is written to `out/labels` with its suffix, so that images can be copied too.

        An image is called `get_name(image)`, unless the format or the disk cannot hold that name. New names are in the
        report and in `renamed.csv`. `facts` are added to the report in the folder (`.florist`).

        An earlier export at `out` is replaced. Raises FileExistsError if anything else is there, ValueError if the
        format has no place for the images or their addresses, and OSError if `out` cannot be written.
        """
        one_file = self.suffix is not None and not as_folder
        self.check_options(placement, image_url, as_folder=as_folder)
        options = ImageOptions(placement, image_url)
        report = ExportReport(on_left_out=on_left_out)
        with open_export(out, one_file=one_file, main_file=f"labels{self.suffix or ''}") as folder:
            writer = self.writer(folder, report, options)
            copies = writer.images_folder if options.are_included and writer.is_read_beside else ""
            names = ImageNames(folder.root, writer.get_label_path, writer.to_holdable, copies)
            renamed, details = RenamedList(folder, report), DetailsFile(folder, report)
            for image in images:
                old_name, image = image.name, replace(image, name=get_name(image))
                try:
                    content = _open_content(image, placement)
                except (OSError, ImageError) as error:
                    report.leave_out_unreadable(old_name, error)
                    continue
                if not writer.keeps_degenerate_polygons:
                    image = _remove_degenerate_polygons(image, report)
                for what, count in image.left_out.items():
                    report.leave_out(what, image.name, count=count)
                name, doubts = image.name, list[str]()
                if content is not None or writer.sidecars:
                    name, doubts = names.choose(name if content is None else _add_suffix(image, content))
                for doubt in (*doubts, *writer.list_doubts(name)):
                    report.warn(doubt, old_name)
                if name != old_name:
                    renamed.add(old_name, name)
                if isinstance(content, Path):
                    if not folder.link(f"{writer.images_folder}/{name}", content):
                        report.warn(_SYMBOLIC, old_name)
                elif content is not None:
                    folder.write(f"{writer.images_folder}/{name}", content)
                    if placement is ImagePlacement.LINK:
                        report.warn(_COPIED_INSTEAD, old_name)
                report.images += 1
                report.annotations += writer.add(image, name)
                details.add(image, name, writer)
            writer.close()
            if not one_file:
                folder.write_marker({**report.to_dict(), PLACEMENT_KEY: placement.value, **facts})
        return report


def _open_content(image: LabeledImage, placement: ImagePlacement) -> bytes | Path | None:
    """Returns what becomes the image in an export: the bytes of a copy, the file of a link, or nothing.

    Raises OSError and ImageError.
    """
    if placement is ImagePlacement.NONE:
        return None
    if placement is ImagePlacement.LINK and isinstance(image.open, ImageFile):
        image.open.stream().close()
        return image.open.path
    return image.read()


def _add_suffix(image: LabeledImage, content: bytes | Path) -> str:
    """Returns the name of an image, with the suffix of its content if it has none."""
    if has_image_suffix(image.name):
        return image.name
    return add_suffix(image.name, image.read() if isinstance(content, Path) else content)


def _remove_degenerate_polygons(image: LabeledImage, report: ExportReport) -> LabeledImage:
    """Returns the image without polygons of fewer than three corners, which most readers refuse."""
    traces = image.traced_annotations
    drawable = [trace for trace in traces if not isinstance(trace.annotation, Polygon) or to_rings(trace.annotation)]
    if len(drawable) == len(traces):
        return image
    report.leave_out("polygons of fewer than three corners", image.name, count=len(traces) - len(drawable))
    return image.with_traces(*drawable)
