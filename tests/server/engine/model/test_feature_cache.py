"""The pictures' features, kept: never too many bytes, the least recently used out first."""

import random
from collections import OrderedDict

import torch

from server.engine.model.feature_cache import FeatureCache


def features(floats: int) -> torch.Tensor:
    return torch.zeros(floats)


def test_any_use_stays_within_its_bytes() -> None:
    draw = random.Random(1)
    cache, kept = FeatureCache(400), OrderedDict[bytes, int]()
    hits = misses = 0
    for _ in range(2000):
        key, floats = b"%d" % draw.randrange(20), draw.choice((5, 20, 60, 101))  # the last is too large at all
        if draw.random() < 0.5:
            found = cache.get(key)
            assert (found is not None) == (key in kept)
            hits, misses = hits + (found is not None), misses + (found is None)
            if key in kept:
                kept.move_to_end(key)
        else:
            cache.put(key, features(floats))
            if key not in kept and floats <= 100:
                kept[key] = 4 * floats
                while sum(kept.values()) > 400:
                    kept.popitem(last=False)
        assert all((b"%d" % i in cache) == (b"%d" % i in kept) for i in range(20))
        stats = cache.get_stats()
        assert (stats.hits, stats.misses, stats.bytes, stats.images) == (
            hits, misses, sum(kept.values()), len(kept),
        )  # fmt: skip
    assert hits > 100


def test_without_room_nothing_is_kept() -> None:
    cache = FeatureCache(0)
    cache.put(b"a", features(1))
    assert cache.get(b"a") is None
    assert cache.get_stats().bytes == 0


def test_clear_forgets() -> None:
    cache = FeatureCache(100)
    cache.put(b"a", features(3))
    assert cache.get(b"a") is not None
    cache.clear()
    assert b"a" not in cache
    assert (cache.get_stats().bytes, cache.get_stats().images, cache.get_stats().hits) == (0, 0, 1)
