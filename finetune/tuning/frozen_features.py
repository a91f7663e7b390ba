"""A cache of the features of frozen vision stages, which are the same in every epoch."""

from collections.abc import Callable

from torch import Tensor

MAX_BYTES = 4 << 30


class FrozenFeatureCache:
    """Features by view. If the cache is full, they are computed again.

    Features are kept in their own dtype and are computed for each image alone, so that cached and computed ones are
    bit-identical. Threads may share a cache.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.entries: dict[int, Tensor] = {}

    def get_or_compute(self, view: int, compute: Callable[[], Tensor]) -> Tensor:
        """Returns the features of a view."""
        if (cached := self.entries.get(view)) is not None:
            return cached
        computed = compute().detach()
        if (len(self.entries) + 1) * computed.nbytes <= self.max_bytes:
            self.entries[view] = computed
        return computed
