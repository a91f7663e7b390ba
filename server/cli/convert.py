"""`florist convert`: writes a dataset in another format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from server.cli.console import error_console, fail, print_line
from server.cli.datasets import DatasetOpener

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
    copy_images: Annotated[bool, typer.Option("--copy-images", help="Copy the images into the folder.")] = False,
) -> None:
    """Writes a dataset in another format.

    What cannot be used in the source, and what the new format has no place for, is listed in OUT.left-out.txt.
    """
    from labels.dataset import DatasetError
    from labels.formats import FORMATS

    if to not in FORMATS:
        fail(f"there is no format {to}; choose one of {', '.join(sorted(FORMATS))}")
    opener = DatasetOpener()  # keeps the copied images of a job until the end
    try:
        with error_console.status("reading …"):
            dataset = opener(source)
        _convert(dataset, source, FORMATS[to], out, copy_images=copy_images)
    except DatasetError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.strerror else str(error))


def _convert(dataset: "Dataset", source: str, format: "Format", out: Path, *, copy_images: bool) -> None:
    from labels.conversion import convert_dataset, would_replace_source

    if would_replace_source(Path(source), out):
        fail(f"{out} would replace the dataset {source}: name another folder")
    is_shown = len(dataset.images) >= _SHOW_PROGRESS_FROM
    with Progress(console=error_console, disable=not is_shown, transient=True) as progress:
        bar = progress.add_task("images", total=len(dataset.images))
        result = convert_dataset(dataset, format, out, copy_images=copy_images, on_image=lambda: progress.advance(bar))
    report = result.report
    print_line(f"{report.annotations} annotations on {report.images} images: {out}")
    if not copy_images:
        folder = out / (format.writer.expected_images_folder or format.writer.images_folder)
        print_line(f"the images were not copied: put them into {folder}, or use --copy-images")
    for what, count in report.left_out.items():
        print_line(f"left out: {count} {what}")
    for remark in report.iter_remarks():
        print_line(remark)
    if dataset.unusable:
        print_line(f"left out: {len(dataset.unusable)} images or labels of {source}, or parts of them")
    if result.left_out:
        print_line(f"{result.left_out} lists everything that was left out")
