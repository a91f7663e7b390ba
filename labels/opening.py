"""Opens a dataset from a path: the format is recognized from the files."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from labels.dataset import Dataset, DatasetError, UnusableEntry
from labels.format import Format
from labels.formats import FORMATS
from labels.reading.dataset_source import DatasetSource


def open_dataset(path: str | Path) -> Dataset:
    """Returns the dataset at `path`, a folder or a file.

    Entries that cannot be used are listed in its `unusable`. Images are not decoded here; use
    `labels.verification.keep_readable` to find broken ones. Raises DatasetError if there is no dataset of a known
    format, or no usable image in it.
    """
    path = Path(path)
    try:
        source = DatasetSource(path)
        with _pause_collection():
            format = find_format(source)
            dataset = format.read(source)
        known = {entry.source for entry in dataset.unusable}
        skipped = [UnusableEntry(source.get_relative(file), reason) for file, reason in source.unreadable.items()]
        unusable = (*dataset.unusable, *(entry for entry in skipped if entry.source not in known))
        return replace(dataset, unusable=unusable, format=format.family)
    except DatasetError:
        raise
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


@contextmanager
def _pause_collection() -> Iterator[None]:
    """Pauses the garbage collector: it would go through the growing dataset again and again, and find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_format(source: DatasetSource) -> Format:
    """Returns the first format that recognizes the source. Raises DatasetError if none does."""
    if not source.path.exists():
        raise DatasetError(f"there is no dataset {str(source.path)!r}: no such file or folder")
    for format in FORMATS.values():
        if format.recognize(source):
            return format
    raise DatasetError(f"{source.path} is not a dataset of a known format:\n{describe_formats()}")


def describe_formats() -> str:
    """Returns one line per format: how a dataset of this format looks on disk."""
    return "\n".join(f"  {line}" for line in dict.fromkeys(format.recognized_by for format in FORMATS.values()))
