"""The datasets that `florist label` writes when its job is done, and the folder of drawn images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from labels.writing.image_options import ImagePlacement
from server.cli.console import print_line
from server.cli.options import describe_images

if TYPE_CHECKING:
    from labels.labeled_image import LabeledImage
    from server.jobs.sources import ImageSource
    from server.store import Job
    from server.store.jobs.job_store import JobStore

_DRAWN_FOLDER = "drawn"


@dataclass(frozen=True, slots=True)
class LabelDatasets:
    """What is written into the folder `out`.

    Attributes:
        out: The output folder.
        formats: The names of the formats, one dataset each.
        placement: How the images are in the datasets; None: as each format needs them.
        image_url: What the addresses of images begin with, in formats that hold addresses; None: no addresses.
        draw: Whether each image is saved with its annotations drawn.
    """

    out: Path
    formats: Sequence[str]
    placement: ImagePlacement | None = None
    image_url: str | None = None
    draw: bool = False

    def check_options(self) -> None:
        """Raises ValueError if a format is unknown or has no place for the images, or none has for addresses."""
        from labels.formats import FORMATS

        for name in self.formats:
            if name not in FORMATS:
                raise ValueError(f"there is no format {name}: use one of {', '.join(FORMATS)}")
            if self.placement not in (None, ImagePlacement.NONE) and FORMATS[name].suffix is not None:
                raise ValueError(
                    f"{name} is one file and cannot contain images: leave --images out, or put them beside it later by "
                    f"`florist convert … --to {name} --images copy`"
                )
        if self.image_url is not None and not any(FORMATS[name].writer.holds_urls for name in self.formats):
            holding = ", ".join(name for name, format in FORMATS.items() if format.writer.holds_urls)
            raise ValueError(f"--image-url: only {holding} have a place for the addresses of images")

    def check_targets(self) -> None:
        """Raises FileExistsError if an export would replace the files of a person: before anything is labeled."""
        from labels.writing.export_folder import check_target

        for target in self._list_targets().values():
            check_target(target, one_file=bool(target.suffix))

    def write(self, store: "JobStore", job: "Job", source: "ImageSource") -> None:
        """Writes the datasets of a job that is done, and prints what is in each. Raises OSError."""
        from labels.formats import FORMATS
        from server.jobs.drawn_images import write_drawn_images
        from server.jobs.job_recipe import get_job_recipe
        from server.jobs.object_view import ObjectView

        view = ObjectView(get_job_recipe(job))
        for name, target in self._list_targets().items():
            included = ""
            if name == _DRAWN_FOLDER:
                images = store.iter_images(job, source.read)
                report = write_drawn_images(view.iter_images(images), target)
            else:
                format = FORMATS[name]
                image_url = self.image_url if format.writer.holds_urls else None
                placement = format.choose_placement(self.placement, image_url)
                images = _iter_images(store, job, source, with_files=placement is ImagePlacement.LINK)
                report = format.write(view.iter_images(images), target, placement, image_url=image_url)
                included = "" if format.suffix else describe_images(placement, image_url)
            left_out = "".join(f"; {count} {what} left out" for what, count in report.left_out.items())
            print_line(f"{report.annotations} annotations on {report.images} images: {target}{included}{left_out}")
            for remark in report.iter_remarks():
                print_line(f"  {remark}")

    def _list_targets(self) -> dict[str, Path]:
        """Returns the dataset of each format, and the folder of the drawn images."""
        from labels.formats import FORMATS

        suffixes = {name: FORMATS[name].suffix for name in self.formats}
        targets = {name: self.out / (f"labels{suffix}" if suffix else name) for name, suffix in suffixes.items()}
        return targets | ({_DRAWN_FOLDER: self.out / _DRAWN_FOLDER} if self.draw else {})


def _iter_images(store: "JobStore", job: "Job", source: "ImageSource", *, with_files: bool) -> "Iterator[LabeledImage]":
    """Yields the labeled images; `with_files`, with their files where the source has files on this machine."""
    from labels.image_files import ImageFile

    for image in store.iter_images(job, source.read):
        position = source.positions.get(image.name)
        file = source.find_file(position) if with_files and position is not None else None
        yield image if file is None else replace(image, open=ImageFile(file))
