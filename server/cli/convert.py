"""`florist convert`: writes a dataset in another format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from labels.writing.image_options import ImagePlacement
from server.cli.console import describe_os_error, error_console, fail, print_line
from server.cli.datasets import JOB_PREFIX, PROJECT_PREFIX, DatasetOpener
from server.cli.options import ImagesOption, ImageUrlOption, describe_images

if TYPE_CHECKING:
    from labels.dataset import Dataset
    from labels.format import Format

_SHOW_PROGRESS_FROM = 500  # images


def convert(
    source: Annotated[
        str, typer.Argument(help="A folder or file in any format that florist reads; project:NAME, job:ID.")
    ],
    to: Annotated[
        str, typer.Option(help="A dataset format, such as coco or yolo-detect; an unknown name lists all formats.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new dataset. An earlier export there is replaced.")],
    images: ImagesOption = None,
    image_url: ImageUrlOption = None,
) -> None:
    """Writes a dataset in another format.

    What cannot be used in the source, and what the new format has no place for, is listed in OUT.left-out.txt.
    """
    from labels.formats import FORMATS

    if to not in FORMATS:
        fail(f"there is no format {to}; choose one of {', '.join(sorted(FORMATS))}")
    if images is ImagePlacement.LINK and source.startswith((PROJECT_PREFIX, JOB_PREFIX)):
        fail(f"the images of {source} belong to the server, which may delete them: use --images copy")
    placement = FORMATS[to].choose_placement(images, image_url)
    opener = DatasetOpener()  # keeps the copied images of a job until the end
    try:
        with error_console.status("reading …"):
            dataset = opener(source)
        FORMATS[to].check_options(placement, image_url, as_folder=True)
        _convert(dataset, source, FORMATS[to], out, placement, image_url)
    except ValueError as error:  # a DatasetError, or an option that the format has no place for
        fail(str(error))
    except OSError as error:
        fail(describe_os_error(error, out))


def _convert(
    dataset: "Dataset", source: str, format: "Format", out: Path, placement: ImagePlacement, image_url: str | None
) -> None:
    from labels.conversion import convert_dataset, would_replace_source

    if would_replace_source(Path(source), out):
        fail(f"{out} would replace the dataset {source}: name another folder")
    is_shown = len(dataset.images) >= _SHOW_PROGRESS_FROM
    with Progress(console=error_console, disable=not is_shown, transient=True) as progress:
        bar = progress.add_task("images", total=len(dataset.images))
        result = convert_dataset(
            dataset, format, out, placement=placement, image_url=image_url, on_image=lambda: progress.advance(bar)
        )
    report = result.report
    print_line(
        f"{report.annotations} annotations on {report.images} images: {out}{describe_images(placement, image_url)}"
    )
    if result.splits:
        counts = ", ".join(f"{name} ({count} images)" for name, count in result.splits.items())
        print_line(f"one split: {counts} are together in the new dataset, and the names of images begin with theirs")
    for what, count in report.left_out.items():
        print_line(f"left out: {count} {what}")
    for remark in report.iter_remarks():
        print_line(remark)
    if dataset.unusable:
        print_line(f"left out: {len(dataset.unusable)} images or labels of {source}, or parts of them")
    if result.left_out:
        print_line(f"{result.left_out} lists everything that was left out")
