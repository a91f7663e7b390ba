"""The pictures of a COCO file."""

import os
from collections.abc import Iterator
from typing import BinaryIO

import ijson

from server.jobs.sources import addresses
from server.jobs.sources.lists import Listed
from server.jobs.sources.source import Allowed, SourceError


def open_coco(address: str, allowed: Allowed | None = None) -> Listed:
    """The pictures by `file_name`, in the file's order; relative to its folder, to `images` there, or, as COCO itself
    lies on disks (annotations/instances_val2017.json beside val2017/), to those beside its folder. Read as a stream: of
    a file with its annotations no more than the names is kept. Raises SourceError."""
    folder = addresses.parent(address)
    above = addresses.parent(folder)
    split = addresses.basename(address).removesuffix(".json").rpartition("_")[2]
    folders = [folder, f"{folder}/images", above, f"{above}/images", f"{above}/{split}"]
    try:
        with addresses.open_file(address) as file:
            rows = _images(file)
            first = next(rows, None)
            if first is None:
                raise SourceError(f"{addresses.shown(address)} is no COCO file with pictures: it has no `images`")
            return Listed(
                address, _chained(first, rows), folders[:2] if addresses.is_url(address) else folders, allowed
            )
    except ijson.JSONError as error:
        raise SourceError(f"{addresses.shown(address)} is broken or cut short: {_line(error)}") from error
    except OSError as error:
        addresses.fail(address, error)


def _images(file: BinaryIO) -> Iterator[tuple[int, str]]:
    for number, image in enumerate(ijson.items(file, "images.item"), 1):
        name = image.get("file_name") if isinstance(image, dict) else None
        yield number, name if isinstance(name, str) else ""


def _chained(first: tuple[int, str], rows: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rows


def _line(error: Exception) -> str:
    return os.fsdecode(error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error)).split("\n")[0]
