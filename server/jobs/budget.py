"""Limits on the memory of images: the bytes of their files, and their pixels."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager


class Budget:
    """Limits the amount (of pixels or bytes) that threads hold at the same time."""

    def __init__(self, total: int) -> None:
        self._free, self._total = total, total
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Waits until `amount` is free, and reserves it during the block. An amount of more than the whole budget
        reserves all of it."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: amount <= self._free)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()

    @contextmanager
    def reserve_later(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that reserves an amount until the end of the block, once it is known. Call it once: two
        threads that each wait for a second amount could wait for each other."""
        with ExitStack() as stack:
            yield lambda amount: stack.enter_context(self.reserve(amount))
