"""The interface of all image sources: images by position, in the same order each time the source is opened."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from server.jobs.sources.listing import ImageListing

# Of one image file. The 64 million pixels that the engine accepts take 192 MB as an uncompressed TIFF.
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_ENTRIES = 10_000_000  # of an archive
MAX_RATIO = 100  # of unpacked to packed: images are compressed already, so an archive that expands more has no images
ALWAYS_UNPACKED_BYTES = 1024 * 1024 * 1024  # that an archive may expand to at any ratio

AccessCheck = Callable[[str], bool]
"""Returns whether a file (its path with links resolved) or a URL may be opened."""


Reserve = Callable[[int], None]
"""Is called with a number of bytes before they are read into memory; waits until there is room."""


def reserve_nothing(count: int) -> None:
    """Does not wait."""


class SourceError(ValueError):
    """A source that cannot be used; the message says why and what to do."""


class SourceImageFault(StrEnum):
    """Why an image cannot be read."""

    MISSING = "missing"
    DENIED = "denied"
    REFUSED = "refused"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too_large"
    BROKEN = "broken"
    UNREACHABLE = "unreachable"


class SourceImageError(OSError):
    """An image that cannot be read from its source; the message says why."""

    def __init__(self, message: str, fault: SourceImageFault) -> None:
        super().__init__(message)
        self.fault = fault

    def __reduce__(self) -> tuple[type, tuple[str, SourceImageFault]]:
        return type(self), (str(self), self.fault)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a source.

    `name` is its path in the source: relative, with forward slashes and no `..`, and unique. `read` returns the bytes
    of its file, from any thread. It calls its argument once, with the bytes of memory that it needs, before it reads.
    It raises only SourceImageError.
    """

    name: str
    _read: Callable[[Reserve], bytes]

    def read(self, reserve: Reserve = reserve_nothing) -> bytes:
        return self._read(reserve)


class ImageSource(ABC):
    """Images by position. They can be read from several threads.

    `positions` are those of the names. `fingerprint` is a hash of names and sizes, which changes with most changes of
    the source. `notes` are messages for the user.
    """

    def __init__(self, listing: "ImageListing") -> None:
        self.names = listing.names
        self.positions = listing.positions
        self.fingerprint = listing.fingerprint
        self.notes = tuple(listing.notes)
        self._faults = listing.faults

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> SourceImage:
        position = range(len(self.names))[position]
        return SourceImage(self.names[position], partial(self._read_checked, position))

    def __iter__(self) -> Iterator[SourceImage]:
        return (self[position] for position in range(len(self)))

    def find(self, name: str) -> SourceImage:
        """Returns an image by its name. Raises SourceImageError if the source does not have it."""
        if (position := self.positions.get(name)) is None:
            raise SourceImageError("it is no longer in the source", SourceImageFault.MISSING)
        return self[position]

    def read(self, name: str) -> bytes:
        """Returns the bytes of the file of an image by its name. Raises SourceImageError."""
        return self.find(name).read()

    def get_stamp(self, position: int) -> str:
        """Returns a text that changes whenever the content of an image does, such as its size and time of change.

        It is empty if that takes reading the image.
        """
        return ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes open files."""
        return

    def find_file(self, position: int) -> Path | None:
        """Returns the file of an image if it is one on this machine: not in an archive or a table, not elsewhere."""
        return None

    def _read_checked(self, position: int, reserve: Reserve) -> bytes:
        error = self._faults.get(position)
        if error is not None:
            raise SourceImageError(str(error), error.fault)
        return self._read(position, reserve)

    @abstractmethod
    def _read(self, position: int, reserve: Reserve) -> bytes: ...


def make_size_error(size: int) -> SourceImageError:
    """Returns the error for an image file of more than MAX_FILE_BYTES."""
    return SourceImageError(
        f"its file has {size:,} bytes; the limit is {MAX_FILE_BYTES:,} bytes", SourceImageFault.TOO_LARGE
    )
