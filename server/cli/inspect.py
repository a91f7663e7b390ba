"""`florist inspect`: shows what is in a dataset, and what cannot be used."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from server.cli.console import console, error_console, fail, print_line, to_printable
from server.cli.datasets import DatasetOpener

if TYPE_CHECKING:
    from labels.inspection import DatasetSummary, Extent

_MAX_CLASSES, _MAX_REASONS, _MAX_SOURCES = 50, 10, 3
_KINDS = {"box": "boxes", "polygon": "polygons", "quad": "words", "text": "captions"}


def inspect(
    source: Annotated[
        str, typer.Argument(help="A folder or file in any format that florist reads; project:NAME, job:ID.")
    ],
    decode: Annotated[bool, typer.Option("--decode", help="Decode each image, to find broken ones.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with everything that cannot be used.")] = False,
) -> None:
    """Shows the images, classes, annotations and sizes of a dataset, and what cannot be used: where, and why."""
    from labels.dataset import DatasetError
    from labels.inspection import summarize_dataset
    from labels.verification import keep_readable

    opener = DatasetOpener()  # keeps the copied images of a job until the end
    try:
        with error_console.status("reading …"):
            dataset = opener(source)
            summary = summarize_dataset(keep_readable(dataset) if decode else dataset)
    except DatasetError as error:
        fail(str(error))
    if as_json:
        print(json.dumps(summary.to_dict(), indent=2))
    else:
        _print_summary(source, summary)


def _print_summary(source: str, summary: "DatasetSummary") -> None:
    counts = [f"{count} {_KINDS[kind]}" for kind, count in summary.annotations.items() if count]
    if summary.samples:
        counts.append(f"{summary.samples} prompts with answers")
    if summary.regions:
        counts.append(f"{summary.regions} regions with a phrase")
    format = f" ({summary.format})" if summary.format else ""
    print_line(f"{source}{format}: {summary.images} images, {', '.join(counts) or 'no annotations'}")
    if summary.empty_images:
        print_line(f"{summary.empty_images} images have no annotations")
    if summary.holdout_images:
        print_line(f"{summary.holdout_images} images are in the holdout")
    if summary.splits:
        splits = [
            f"{each.name or 'none'} ({each.images} images, {each.annotations} annotations)" for each in summary.splits
        ]
        print_line(f"splits: {', '.join(splits)}")
    print_line(f"widths {_format_extent(summary.widths)}, heights {_format_extent(summary.heights)}")
    sizes = [f"{width}×{height} ({count} images)" for (width, height), count in summary.common_sizes]
    print_line(f"most common sizes: {', '.join(sizes)}")
    if summary.object_sides:
        print_line(f"longer sides of objects {_format_extent(summary.object_sides)}")
    if summary.classes:
        _print_classes(summary)
    if summary.unusable:
        _print_unusable(summary)


def _print_classes(summary: "DatasetSummary") -> None:
    table = Table("class")
    for column in ("boxes", "polygons", "images"):
        table.add_column(column, justify="right")
    for each in summary.classes[:_MAX_CLASSES]:
        table.add_row(escape(to_printable(each.name)), str(each.boxes), str(each.polygons), str(each.images))
    console.print(table)
    if (more := len(summary.classes) - _MAX_CLASSES) > 0:
        print_line(f"… and {more} more classes: --json lists all")


def _print_unusable(summary: "DatasetSummary") -> None:
    from labels.inspection import group_by_reason

    print_line(f"{len(summary.unusable)} images or labels are not used, or only in part:")
    groups = group_by_reason(summary.unusable)
    for reason, sources in groups[:_MAX_REASONS]:
        shown = ", ".join(sources[:_MAX_SOURCES]) + (" …" if len(sources) > _MAX_SOURCES else "")
        print_line(f"  {shown}: {reason}" + (f" ({len(sources)} times)" if len(sources) > 1 else ""))
    if len(groups) > _MAX_REASONS or any(len(sources) > _MAX_SOURCES for _, sources in groups):
        print_line("  --json lists all")


def _format_extent(extent: "Extent") -> str:
    if extent.smallest == extent.largest:
        return f"{extent.smallest:.0f} px"
    return f"{extent.smallest:.0f} to {extent.largest:.0f} px (median {extent.median:.0f})"
