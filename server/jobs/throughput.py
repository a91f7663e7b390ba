"""The speed of a job."""

import time
from collections import deque


class RateMeter:
    """Measures how many images per second are completed."""

    _WINDOW = 30.0  # seconds

    def __init__(self) -> None:
        self._count = 0
        self._samples = deque([(time.monotonic(), 0)])  # at most one a second

    def count(self) -> None:
        """Counts one more image."""
        self._count += 1
        now = time.monotonic()
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, self._count))
        while len(self._samples) > 2 and now - self._samples[1][0] > self._WINDOW:
            self._samples.popleft()

    def compute_rate(self) -> float | None:
        """Returns the images per second over the last 30 s; None before the first image."""
        start, count = self._samples[0]
        return (self._count - count) / (time.monotonic() - start) if self._count else None
