"""Opens a dataset from a path: the format is recognized from the files."""

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from labels.dataset import Dataset, DatasetError, UnusableEntry
from labels.format import PLACEMENT_KEY, Format
from labels.formats import FORMATS
from labels.reading.dataset_source import DatasetSource
from labels.writing.export_folder import MARKER
from labels.writing.image_options import ImagePlacement

_GLIMPSED_DOCUMENTS = 20
_OTHER_FORMAT = "it is also a dataset in the format {}, which is not read: name its file or folder to read that one"
_WITHOUT_IMAGES = "it was written without its images: write it again with `--images copy` or `--images link`"


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
        skipped = [entry for entry in skipped if entry.source not in known]
        others = [
            UnusableEntry(str(path), _OTHER_FORMAT.format(family)) for family in _list_other_families(path, format)
        ]
        return replace(dataset, unusable=(*others, *dataset.unusable, *skipped), format=format.family)
    except DatasetError as error:
        if _is_export_without_images(path):
            raise DatasetError(f"{error}\n{_WITHOUT_IMAGES}") from error
        raise
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _list_other_families(path: Path, found: Format) -> list[str]:
    """Returns the names of the formats, besides the one that was found, in which a folder also has a dataset.

    Looks into few files: a folder may have a hundred thousand.
    """
    if not path.is_dir():
        return []
    families = {found.family: None}
    # What `florist label` writes has an export in each folder, some of which are too deep to be recognized from here.
    for folder in (path, *sorted(marker.parent for marker in path.glob(f"*/{MARKER}"))):
        glimpse = DatasetSource(folder, _GLIMPSED_DOCUMENTS)
        for format in FORMATS.values():
            if format is FORMATS["jsonl"] and FORMATS["huggingface"].family in families:
                continue  # metadata.jsonl is JSON lines, too
            with suppress(DatasetError, OSError):
                if format.family not in families and format.recognize(glimpse):
                    families[format.family] = None
                    if folder != path:
                        break
    del families[found.family]
    return list(families)


def _is_export_without_images(path: Path) -> bool:
    """Returns whether a folder is an export of florist that was written without its images."""
    try:
        report = json.loads((path / MARKER).read_bytes())
        return report[PLACEMENT_KEY] == ImagePlacement.NONE
    except (OSError, ValueError, LookupError, TypeError):
        return False


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
