"""The speed of a job."""

import math
import time
from collections.abc import Callable

_SECONDS, _IMAGES = 60.0, 30.0  # the rate is an average over the longer one of both
_IDLE_SECONDS = 30.0  # so long no image may end before the rate falls


class RateMeter:
    """Measures how many images per second are completed: an average that forgets old images exponentially.

    It changes little from one image to the next, also for slow images and for images that end in groups, so that the
    time left does not jump.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._images = self._seconds = 0.0  # weighted: old ones count less

    def count(self) -> None:
        """Counts one more image."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        kept = max(math.exp(-elapsed / _SECONDS), 1 - 1 / _IMAGES)
        self._images = self._images * kept + 1
        self._seconds = self._seconds * kept + elapsed

    def compute_rate(self) -> float | None:
        """Returns the images per second; None before the first image."""
        idle = max(0.0, self._clock() - self._last - _IDLE_SECONDS)
        seconds = self._seconds + idle
        return self._images / seconds if self._images and seconds > 0 else None
