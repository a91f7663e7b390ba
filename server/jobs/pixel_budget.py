"""A limit on the memory of decoded images."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class PixelBudget:
    """Limits the number of pixels of the images that threads decode at the same time."""

    def __init__(self, pixels: int) -> None:
        self._free, self._total = pixels, pixels
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Waits until `pixels` are free, and reserves them during the block. An image larger than the whole budget
        reserves all of it."""
        pixels = min(pixels, self._total)
        with self._changed:
            self._changed.wait_for(lambda: pixels <= self._free)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
