"""The cache of image features: several prompts about one image need one pass of the vision encoder."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, slots=True)
class CacheStats:
    """`hits` and `misses` since the start; `bytes` and `images` in the cache now."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    images: int = 0

    @classmethod
    def combine(cls, stats: Iterable[Self]) -> Self:
        """Returns the sums over several caches."""
        return cls(*map(sum, zip(*map(astuple, stats), strict=True)))


class FeatureCache:
    """Image key → image features [image tokens, d]. Evicts the least recently used above `capacity` bytes. Thread safe.

    A key must identify everything that the features depend on: the resized pixels and the weights of the
    vision encoder.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._features: OrderedDict[bytes, Tensor] = OrderedDict()  # least recently used first
        self._claims: dict[bytes, object] = {}
        self._hits = self._misses = self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Tensor | None:
        """Returns the features, or None. Counts a hit or a miss."""
        with self._lock:
            features = self._features.get(key)
            if features is None:
                self._misses += 1
            else:
                self._hits += 1
                self._features.move_to_end(key)
            return features

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return key in self._features

    def claim(self, key: bytes, owner: object) -> bool:
        """Returns whether `owner` may process this image now.

        True when the features are cached, or when nobody else is encoding the image. In the second case others get
        False until `release`.
        """
        with self._lock:
            return key in self._features or self._claims.setdefault(key, owner) is owner

    def release(self, key: bytes, owner: object) -> None:
        """Ends a claim. Does nothing when `owner` has no claim on the image."""
        with self._lock:
            if self._claims.get(key) is owner:
                del self._claims[key]

    def count_hit(self) -> None:
        """Counts a hit without a lookup, for prompts of one batch that share an image."""
        with self._lock:
            self._hits += 1

    def put(self, key: bytes, features: Tensor) -> None:
        """Stores features. They must not be a view of a larger tensor."""
        with self._lock:
            if key in self._features or features.nbytes > self.capacity:
                return
            self._features[key] = features
            self._bytes += features.nbytes
            while self._bytes > self.capacity:
                self._bytes -= self._features.popitem(last=False)[1].nbytes

    def get_stats(self) -> CacheStats:
        """Returns the current statistics."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._bytes, len(self._features))
