"""The list of images that a source builds when it is opened."""

import hashlib
from collections import Counter

from labels.file_kinds import recognize_kind
from prompts.text import truncate
from server.jobs.sources.names import split_suffix, to_safe_name
from server.jobs.sources.source import SourceError, SourceImageError

MAX_LISTING_BYTES = 2 * 1024**3  # of memory for names: about six million images with paths of 60 characters
_NAME_BYTES = 200  # memory of a name besides its characters: the object, its places in a list and a dict, its position
_FAULT_BYTES = 600  # memory of a fault
_MAX_SHOWN = 5  # names, and suffixes, in a note
_MAX_NAME = 80  # characters of a name in a note


class NameBudget:
    """Counts the memory that names take, and raises SourceError if it is too much."""

    def __init__(self) -> None:
        self._bytes = self._count = 0

    def add(self, name: str, extra: int = 0) -> None:
        """Counts a name, and `extra` bytes for it."""
        self._count += 1
        self._bytes += 2 * len(name) + _NAME_BYTES + extra
        if self._bytes > MAX_LISTING_BYTES:
            raise SourceError(
                f"names more images than a job can list: the first {self._count:,} names take "
                f"{MAX_LISTING_BYTES:,} bytes of memory, which is the limit; split it"
            )


class ImageListing:
    """Collects the images of a source: names, made unique and safe to write, faults, and the fingerprint."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.positions: dict[str, int] = {}  # by name
        self.faults: dict[int, SourceImageError] = {}
        self._notes: list[str] = []
        self._renamed: list[str] = []
        self._renamed_count = 0
        self._aside: list[str] = []
        self._aside_kinds: Counter[str] = Counter()
        self._budget = NameBudget()
        self._repeats: dict[str, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, name: str, size: int = -1, fault: SourceImageError | None = None, extra: int = 0) -> None:
        """Adds an image by its name in the source. `size` is in bytes, -1 if it is unknown. `fault` is why the image
        cannot be read. `extra` is the memory in bytes that the source keeps for it. Raises SourceError if the names
        take too much memory."""
        given, name = name, self._make_unique(to_safe_name(name))
        if given.rpartition("/")[2] != name.rpartition("/")[2]:
            self._renamed_count += 1
            if len(self._renamed) < _MAX_SHOWN:
                self._renamed.append(f"{truncate(given, _MAX_NAME)!r} is {truncate(name, _MAX_NAME)!r}")
        self._budget.add(name, extra + (_FAULT_BYTES if fault is not None else 0))
        if fault is not None:
            self.faults[len(self.names)] = fault
        self.positions[name] = len(self.names)
        self.names.append(name)
        self._hash.update(f"{name}\0{size}\0".encode())

    def add_note(self, note: str) -> None:
        """Adds a message for the user."""
        self._notes.append(note)

    def check_start(self, name: str, start: bytes) -> bool:
        """Returns whether a file with an unknown suffix is an image by its first bytes. Otherwise sets it aside."""
        kind = recognize_kind(start)
        if kind is not None and kind.pillow_format is not None:
            return True
        self.set_aside(name, kind.description if kind is not None else "")
        return False

    def set_aside(self, name: str, description: str = "") -> None:
        """Counts a file that is not an image, by its name or by what it is. The first ones are named in the notes."""
        kind = split_suffix(name)[1].lower()[:16] or "without a suffix"
        if kind in self._aside_kinds or len(self._aside_kinds) < 1000:
            self._aside_kinds[kind] += 1
        else:
            self._aside_kinds["other"] += 1
        if len(self._aside) < _MAX_SHOWN:
            shown = truncate(to_safe_name(name), _MAX_NAME)
            self._aside.append(f"{shown} ({description})" if description else shown)

    @property
    def notes(self) -> list[str]:
        """Messages for the user, also about the files that were set aside."""
        notes, count = list(self._notes), self._aside_kinds.total()
        if self._renamed_count:
            more = ", …" if self._renamed_count > len(self._renamed) else ""
            notes.append(
                f"{self._renamed_count:,} images have another name in the job, because theirs is taken, too long or "
                f"cannot be written: {', '.join(self._renamed)}{more}"
            )
        if not count:
            return notes
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in self._aside_kinds.most_common(_MAX_SHOWN))
        more = ", …" if len(self._aside_kinds) > _MAX_SHOWN else ""
        names = ", ".join(self._aside) + (", …" if count > len(self._aside) else "")
        what = "file is" if count == 1 else "files are"
        note = f"{count:,} {what} set aside as not images ({kinds}{more}): {names}"
        return [*notes, note]

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def _make_unique(self, name: str) -> str:
        """Returns the name, or a new one such as cat~2.jpg if another image has it."""
        original, (stem, suffix) = name, split_suffix(name)
        while name in self.positions:
            self._repeats[original] = self._repeats.get(original, 1) + 1
            name = f"{stem}~{self._repeats[original]}{suffix}"
        return name
