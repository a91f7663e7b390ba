"""What the vision tower made of pictures, kept: a picture that is asked about again is not looked at again."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, slots=True)
class CacheStats:
    """`hits` and `misses` since the start, `bytes` and `pictures` held now."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    pictures: int = 0

    @classmethod
    def total(cls, several: Iterable[Self]) -> Self:
        """Of several caches together."""
        return cls(*map(sum, zip(*map(astuple, several), strict=True)))


class FeatureCache:
    """Picture → image features [image tokens, d], at most `capacity` bytes of them; the least recently used leave.

    A key must tell apart all that the features depend on: the squashed pixels and the tower's weights.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._claims: dict[bytes, object] = {}
        self._hits = self._misses = self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Tensor | None:
        """The features, if they are still here."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
            else:
                self._hits += 1
                self._kept.move_to_end(key)
            return found

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return key in self._kept

    def claim(self, key: bytes, owner: object) -> bool:
        """Whether `owner` may go on with this picture: it is kept, or nobody else is looking at it, and then nobody
        else will until `release`."""
        with self._lock:
            return key in self._kept or self._claims.setdefault(key, owner) is owner

    def release(self, key: bytes, owner: object) -> None:
        """Ends a claim; one that another has, or nobody, is no error."""
        with self._lock:
            if self._claims.get(key) is owner:
                del self._claims[key]

    def count_hit(self) -> None:
        """Two that arrived together share one look: the second one's is a hit too."""
        with self._lock:
            self._hits += 1

    def put(self, key: bytes, features: Tensor) -> None:
        """Keeps `features`, which must not be a view of something larger."""
        with self._lock:
            if key in self._kept or features.nbytes > self.capacity:
                return
            self._kept[key] = features
            self._bytes += features.nbytes
            while self._bytes > self.capacity:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forgets everything, but not how often it helped."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def stats(self) -> CacheStats:
        """A snapshot."""
        with self._lock:
            return CacheStats(self._hits, self._misses, self._bytes, len(self._kept))
