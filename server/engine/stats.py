"""Counters of the engine."""

from dataclasses import dataclass, field

from server.engine.model.feature_cache import CacheStats


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since the start, seconds spent in each phase, and the current number of requests.

    `submitted`: accepted requests. `rejected`: requests rejected because the queue was full.
    `images`: images encoded, fewer than requests when requests share an image.
    `rows`: the number of running requests, summed over all `steps`.
    `out_of_memory`: how often a batch ran out of memory and was retried with a smaller one.
    `waiting`, `running`: requests now.
    """

    submitted: int = 0
    rejected: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    tokens: int = 0
    steps: int = 0
    rows: int = 0
    images: int = 0
    out_of_memory: int = 0
    vision_seconds: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    waiting: int = 0
    running: int = 0
    cache: CacheStats = field(default_factory=CacheStats)
