"""The base class of the writers: writes one dataset, image by image."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.writing.export_folder import ExportFolder
from labels.writing.export_report import ExportReport
from labels.writing.image_names import replace_suffix, split_suffix
from labels.writing.image_options import ImageOptions, ImagePlacement

DETAILS_FILE = "details.jsonl"
"""The second file of an export, with what its format has no place for."""


class DatasetWriter(ABC):
    """Writes one dataset to `folder` and counts in `report`. Can be used once. Keeps no annotations in memory.

    Attributes:
        images_folder: The subfolder of the images.
        sidecars: Subfolder and suffix of the file that accompanies each image; None if the format has none.
        is_read_by_stem: Whether common readers take two images for one if their names differ only in the suffix.
        is_read_beside: Whether a name is looked for beside the labels file before it is in `images_folder`.
        keeps_degenerate_polygons: Whether polygons of fewer than three corners are written too.
        keeps_samples: Whether an image's samples (prompts with answers) are written.
        keeps_regions: Whether an image's regions with free text are written.
        reserved_attributes: The names of attributes that mean something else in the format.
        default_placement: How the images are in a dataset if nobody says so.
        holds_urls: Whether the format has a place for the addresses of images.
        images: Whether the images are in the folder, and their addresses.
    """

    images_folder: ClassVar[str] = "images"
    sidecars: ClassVar[tuple[str, str] | None] = None
    is_read_by_stem: ClassVar[bool] = False
    is_read_beside: ClassVar[bool] = False
    keeps_degenerate_polygons: ClassVar[bool] = False
    keeps_samples: ClassVar[bool] = False
    keeps_regions: ClassVar[bool] = False
    reserved_attributes: ClassVar[frozenset[str]] = frozenset()
    default_placement: ClassVar[ImagePlacement] = ImagePlacement.NONE
    holds_urls: ClassVar[bool] = False

    def __init__(self, folder: ExportFolder, report: ExportReport, images: ImageOptions) -> None:
        self.folder, self.report, self.images = folder, report, images
        self._stems = set[int]()  # hashes
        self._left_out = dict[int, tuple[TracedAnnotation, bool]]()  # of the current image, by identity

    @classmethod
    def get_label_path(cls, name: str) -> str | None:
        """Returns the path of the file with the labels of the image `name`, by the rule of the tools that read it.

        None if one file has the labels of all images.
        """
        if cls.sidecars is None:
            return None
        folder, suffix = cls.sidecars
        return f"{folder}/{replace_suffix(name, suffix)}"

    @classmethod
    def to_holdable(cls, name: str) -> str:
        """Replaces what the format cannot hold in the name of an image."""
        return name

    def list_doubts(self, name: str) -> list[str]:
        """Returns why tools that read the format may not find the next image of this name, or take it for another."""
        if not self.is_read_by_stem:
            return []
        stem = hash(split_suffix(name)[0])
        is_known = stem in self._stems
        self._stems.add(stem)
        return ["images that CVAT and Datumaro take for another (their names differ only in the suffix)"] * is_known

    @abstractmethod
    def add(self, image: LabeledImage, name: str) -> int:
        """Writes one image's labels and returns how many annotations were written.

        `name` is the path of the image in `images_folder`, which is written already. Without images, it is the name by
        which readers find the sidecar, or `image.name` if the format has none. Polygons of fewer than three
        corners are removed already, unless `keeps_degenerate_polygons`.
        """

    def write_sidecar(self, name: str, content: str) -> None:
        """Writes the file that accompanies the image `name`."""
        path = self.get_label_path(name)
        assert path is not None
        self.folder.write(path, content)

    def leave_out(self, what: str, traced: TracedAnnotation, *, is_written: bool = False) -> None:
        """Counts an annotation, or a part of it such as its score, that the format cannot hold: details.jsonl has it.

        `what` is the plural of what is left out, `is_written` whether the annotation itself is in the dataset.
        """
        self.report.place(DETAILS_FILE, what)
        self._left_out[id(traced)] = (traced, is_written)

    def select_attributes(self, traced: TracedAnnotation) -> TracedAnnotation:
        """Returns an annotation that is in the dataset without `reserved_attributes`: details.jsonl has them."""
        if not (reserved := sorted(self.reserved_attributes & traced.attributes.keys())):
            return traced
        for name in reserved:
            self.leave_out(f"attributes called {name}", traced, is_written=True)
        kept = {name: value for name, value in traced.attributes.items() if name not in reserved}
        return replace(traced, attributes=kept)

    def leave_out_details(self, traced: TracedAnnotation) -> None:
        """Same as `leave_out`, for the score, the attributes and the reason for review of an annotation that is in the
        dataset."""
        details = {
            "scores": traced.annotation.score,
            "attributes": traced.attributes,
            "reasons for review": traced.review,
        }
        for what, value in details.items():
            if value not in (None, "", {}):
                self.leave_out(what, traced, is_written=True)

    def pop_left_out(self) -> list[tuple[TracedAnnotation, bool]]:
        """Returns what was left out since the last call, each with whether it is in the dataset."""
        left_out = list(self._left_out.values())
        self._left_out.clear()
        return left_out

    def close(self) -> None:  # noqa: B027 (not every format has something to write at the end)
        """Writes everything that is known only after the last image."""
