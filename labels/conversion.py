"""Converts a dataset to another format."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from labels.dataset import Dataset
from labels.format import Format
from labels.image_files import ImageFile
from labels.image_suffixes import SUFFIXES
from labels.images import ImageError
from labels.labeled_image import LabeledImage
from labels.split_names import DISJOINT_SPLITS, normalize_split
from labels.writing.export_report import ExportReport
from labels.writing.image_names import add_suffix, remove_images_folders
from labels.writing.image_options import ImagePlacement


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        report: What was written.
        left_out: The file that lists what was left out; None if nothing was left out.
        splits: The splits of the source with their numbers of images, which are one in the new dataset; empty if the
            source has fewer than two.
    """

    report: ExportReport
    left_out: Path | None
    splits: dict[str, int]


def convert_dataset(
    dataset: Dataset,
    format: Format,
    out: Path,
    *,
    placement: ImagePlacement,
    image_url: str | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Conversion:
    """Writes a dataset to the folder `out` in another format, completely or not at all.

    Everything that is left out is listed in `<out>.left-out.txt`, one entry per line: with file and line if the source
    cannot be used, with the image's name if the new format cannot hold it. Images with other names are listed in
    `renamed.csv` in the folder. `on_image` is called after each image.

    An earlier export at `out` is replaced. Raises FileExistsError if anything else is there, ValueError if the format
    has no place for `image_url`, and OSError if `out` cannot be written.
    """
    out = out.resolve()
    listing = out.with_name(f"{out.name}.left-out.txt")
    part = out.with_name(f".{out.name}.left-out.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    counts = Counter(remove_images_folders(image.name) for image in dataset.images)
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for entry in dataset.unusable:
                _write_line(file, entry.source, entry.reason)
            report = format.write(
                _iter_images(dataset, on_image),
                out,
                placement,
                image_url=image_url,
                as_folder=True,
                get_name=partial(_choose_name, counts=counts),
                on_left_out=lambda image, reason: _write_line(file, image, reason),
            )
            is_empty = file.tell() == 0
        if is_empty:
            listing.unlink(missing_ok=True)
        else:
            part.replace(listing)
    finally:
        part.unlink(missing_ok=True)
    return Conversion(report, None if is_empty else listing, _count_splits(dataset))


def would_replace_source(source: Path, out: Path) -> bool:
    """Returns whether a conversion to `out` would replace the dataset at `source`, or a folder that contains it."""
    source, out = source.resolve(), out.resolve()
    return out == source or out in source.parents


def _write_line(file: IO[str], source: str, reason: str) -> None:
    file.write(" ".join(f"{source}: {reason}".split()) + "\n")


def _iter_images(dataset: Dataset, on_image: Callable[[], None]) -> Iterator[LabeledImage]:
    for image in dataset.images:
        yield image
        on_image()


def _count_splits(dataset: Dataset) -> dict[str, int]:
    """Returns how many images are in each split of a dataset with several: names begin with their split."""
    names = (remove_images_folders(image.name).split("/") for image in dataset.images)
    counts = Counter(folders[0] for folders in names if len(folders) > 1)
    splits = {name: count for name, count in counts.items() if normalize_split(name) in DISJOINT_SPLITS}
    return splits if len(splits) > 1 else {}


def _choose_name(image: LabeledImage, counts: Mapping[str, int]) -> str:
    """Returns the name of an image in the new dataset. `counts`: how many images have each name without `images`."""
    name = remove_images_folders(image.name)
    path = PurePosixPath(name if counts[name] == 1 else image.name)
    if isinstance(image.open, ImageFile) or path.suffix.lower() in SUFFIXES:
        return path.as_posix()
    with suppress(OSError, ImageError):  # an image in a table has a row, but no file name
        return add_suffix(path.as_posix(), image.read())
    return path.as_posix()
