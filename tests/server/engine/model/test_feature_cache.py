"""The feature cache: its capacity, evictions and statistics."""

import random
from collections import OrderedDict

import torch

from server.engine.model.feature_cache import FeatureCache


def create_features(floats: int) -> torch.Tensor:
    return torch.zeros(floats)


def test_the_cache_stays_within_its_capacity() -> None:
    rng = random.Random(1)
    cache, expected = FeatureCache(400), OrderedDict[bytes, int]()
    hits = misses = 0
    for _ in range(2000):
        key, floats = b"%d" % rng.randrange(20), rng.choice((5, 20, 60, 101))  # the last is larger than the capacity
        if rng.random() < 0.5:
            found = cache.get(key)
            assert (found is not None) == (key in expected)
            hits, misses = hits + (found is not None), misses + (found is None)
            if key in expected:
                expected.move_to_end(key)
        else:
            cache.put(key, create_features(floats))
            if key not in expected and floats <= 100:
                expected[key] = 4 * floats
                while sum(expected.values()) > 400:
                    expected.popitem(last=False)
        assert all((b"%d" % i in cache) == (b"%d" % i in expected) for i in range(20))
        stats = cache.get_stats()
        assert (stats.hits, stats.misses, stats.bytes, stats.images) == (
            hits, misses, sum(expected.values()), len(expected),
        )  # fmt: skip
    assert hits > 100


def test_a_cache_without_capacity_stores_nothing() -> None:
    cache = FeatureCache(0)
    cache.put(b"a", create_features(1))
    assert cache.get(b"a") is None
    assert cache.get_stats().bytes == 0
