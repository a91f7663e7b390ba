"""The images of a COCO file."""

import os
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

import ijson

from server.jobs.sources import addresses
from server.jobs.sources.failures import raise_source_error
from server.jobs.sources.lists import ListSource
from server.jobs.sources.source import AccessCheck, SourceError
from server.store.text import is_url, redact_address


def open_coco(address: str, is_allowed: AccessCheck | None = None) -> ListSource:
    """Opens the images of a COCO file by their `file_name`, in the file's order.

    Images are relative to the file's folder, to `images` in it, or to the same two beside that folder, as in COCO
    itself (annotations/instances_val2017.json beside val2017/). Reads the file as a stream and keeps only the names.
    Raises SourceError.
    """
    folder = addresses.get_parent(address)
    above = addresses.get_parent(folder)
    split = addresses.get_name(address).removesuffix(".json").rpartition("_")[2]
    folders = [folder, f"{folder}/images", above, f"{above}/images", f"{above}/{split}"]
    try:
        with addresses.open_file(address) as file:
            rows = _iter_images(file)
            first = next(rows, None)
            if first is None:
                raise SourceError(f"{redact_address(address)} is not a COCO file with images: it has no `images`")
            return ListSource(address, chain([first], rows), folders[:2] if is_url(address) else folders, is_allowed)
    except ijson.JSONError as error:
        raise SourceError(f"{redact_address(address)} is broken or truncated: {_get_message(error)}") from error
    except OSError as error:
        raise_source_error(address, error)


def _iter_images(file: BinaryIO) -> Iterator[tuple[int, str]]:
    for number, image in enumerate(ijson.items(file, "images.item"), 1):
        name = image.get("file_name") if isinstance(image, dict) else None
        yield number, name if isinstance(name, str) else ""


def _get_message(error: Exception) -> str:
    """Returns the first line of an error; ijson's own messages are bytes."""
    return os.fsdecode(error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error)).split("\n")[0]
