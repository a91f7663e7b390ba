"""The list of images that a source builds when it is opened."""

import hashlib

from server.jobs.sources.names import split_suffix, to_safe_name
from server.jobs.sources.source import SourceImageError


class ImageListing:
    """Collects the images of a source: names, made unique and safe to write, faults, and the fingerprint."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.faults: dict[int, SourceImageError] = {}
        self.notes: list[str] = []
        self._taken: set[str] = set()
        self._repeats: dict[str, int] = {}
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, name: str, size: int = -1, fault: SourceImageError | None = None) -> None:
        """Adds an image by its name in the source. `size` is in bytes, -1 if it is unknown. `fault` is why the image
        cannot be read."""
        name = self._make_unique(to_safe_name(name))
        if fault is not None:
            self.faults[len(self.names)] = fault
        self.names.append(name)
        self._taken.add(name)
        self._hash.update(f"{name}\0{size}\0".encode())

    @property
    def fingerprint(self) -> str:
        return self._hash.hexdigest()

    def _make_unique(self, name: str) -> str:
        """Returns the name, or a new one such as cat~2.jpg if another image has it."""
        original, (stem, suffix) = name, split_suffix(name)
        while name in self._taken:
            self._repeats[original] = self._repeats.get(original, 1) + 1
            name = f"{stem}~{self._repeats[original]}{suffix}"
        return name
