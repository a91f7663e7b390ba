"""What every kind of source is: pictures by position, in the same order each time it is opened."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Self

SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"]
)
MOST_BYTES = 256 * 1024 * 1024  # of one picture's file; the engine's 64 million pixels as a plain TIFF are 192 MB
_PART, _NAME = 255, 1024  # bytes that file systems take in one part of a name, and that we write in a whole one
_HIDDEN = re.compile(r"(^|/)\.(?!\.?/)")  # a part that begins with a dot and is neither . nor ..
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # neither UTF-8 nor PostgreSQL has a place for them

Allowed = Callable[[str], bool]
"""Whether a file (its path, links resolved) or a URL may be opened."""


class SourceError(ValueError):
    """A source that cannot be used; the message says why and what to do."""


class ImageErrorKind(StrEnum):
    """Why one picture cannot be read."""

    MISSING = "missing"
    DENIED = "denied"
    REFUSED = "refused"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too_large"
    BROKEN = "broken"
    UNREACHABLE = "unreachable"


class SourceImageError(OSError):
    """A picture that cannot be read from its source; the message says why."""

    def __init__(self, message: str, fault: ImageErrorKind) -> None:
        super().__init__(message)
        self.fault = fault

    def __reduce__(self) -> tuple[type, tuple[str, ImageErrorKind]]:
        return type(self), (str(self), self.fault)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One picture. `name`: where it lies in its source, a relative path with forward slashes and no `..`, unique there;
    `read` gives its file's bytes, from any thread, and raises ItemError and nothing else."""

    name: str
    read: Callable[[], bytes]


class ImageListing:
    """What a source finds while it lists: names made unique and safe to write, faults, and the fingerprint."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.faults: dict[int, SourceImageError] = {}
        self.notes: list[str] = []
        self._taken: set[str] = set()
        self._repeats: dict[str, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, name: str, size: int = -1, fault: SourceImageError | None = None) -> None:
        """One picture by the name that its source gives it; `size` in bytes, -1 where nobody knows."""
        name = self._unique(safe(name))
        if fault is not None:
            self.faults[len(self.names)] = fault
        self.names.append(name)
        self._taken.add(name)
        self._hash.update(f"{name}\0{size}\0".encode())

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def _unique(self, name: str) -> str:
        """The name, or one like cat~2.jpg where another picture has it."""
        wanted, (stem, suffix) = name, split(name)
        while name in self._taken:
            self._repeats[wanted] = self._repeats.get(wanted, 1) + 1
            name = f"{stem}~{self._repeats[wanted]}{suffix}"
        return name


class ImageSource(ABC):
    """Pictures by position. `fingerprint`: a hash over names and sizes, by which a resumed job notices that its source
    is another; `notes`: what a person should be told about it. Its items may be read from several threads."""

    def __init__(self, listing: ImageListing) -> None:
        self.names = listing.names
        self.fingerprint = listing.fingerprint
        self.notes = tuple(listing.notes)
        self._faults = listing.faults

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> SourceImage:
        position = range(len(self.names))[position]
        return SourceImage(self.names[position], partial(self._get, position))

    def __iter__(self) -> Iterator[SourceImage]:
        return (self[position] for position in range(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of open files."""
        return

    def _get(self, position: int) -> bytes:
        fault = self._faults.get(position)
        if fault is not None:
            raise SourceImageError(str(fault), fault.fault)
        return self._read(position)

    @abstractmethod
    def _read(self, position: int) -> bytes: ...


def is_picture(name: str) -> bool:
    """Whether a path is a picture's, by its suffix, and hidden nowhere."""
    return split(name)[1].lower() in SUFFIXES and not _HIDDEN.search(name)


def split(name: str) -> tuple[str, str]:
    """A path without its suffix, and the suffix with its dot; a dot that begins a file's name begins no suffix."""
    dot = name.rfind(".")
    return (name[:dot], name[dot:]) if dot > name.rfind("/") + 1 else (name, "")


def safe(name: str) -> str:
    """A name as it came → a relative path that any file system takes, below whatever folder it is put."""
    parts = [part for part in _UNWRITABLE.sub("\ufffd", name).split("/") if part not in ("", ".", "..")]
    if parts and re.fullmatch("[A-Za-z]:", parts[0]):
        del parts[0]
    name = "/".join(map(_shortened, parts))
    return name if 0 < len(name.encode()) <= _NAME else _shortened(parts[-1]) if parts else "unnamed"


def _shortened(part: str) -> str:
    if len(part.encode()) <= _PART:
        return part
    stem, suffix = split(part)
    suffix = suffix if len(suffix) <= 8 else ""
    return stem.encode()[: _PART - 40].decode(errors="ignore") + suffix


def too_large(size: int) -> SourceImageError:
    return SourceImageError(f"its file has {size:,} bytes; at most {MOST_BYTES:,} are read", ImageErrorKind.TOO_LARGE)
