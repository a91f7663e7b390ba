"""Memory does not grow: requests free theirs when they end, however they end. A benchmark runs 10,000 of them."""

import gc
import resource
import sys
import weakref
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from prompts.tasks import TASKS
from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import DeadlineExceededError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.sequence import Sequence
from tests.server.engine import reference
from tests.server.engine.tiny import create_image

CACHE_BYTES = 6 << 10  # size of the feature cache: about ten images of the tiny model
MIB = 1 << 20


def run_requests(engine: Engine, count: int, seed: int) -> None:
    """Runs requests of every kind with new images, most of them with a distant deadline. Some fail or are cancelled."""
    handles: list[Handle] = []
    for i in range(count):
        request = reference.create_request(
            list(TASKS)[i % 15], create_image(seed + i), beams=(1, 1, 3, 2)[i % 4], limit=(5, 24, 9)[i % 3]
        )
        timeout = {7: 0.0, 9: None}.get(i % 20, 3600.0)
        handles.append(engine.submit(replace(request, timeout=timeout, client=f"client {i}", interactive=i % 3 > 0)))
        if i % 10 == 3:
            handles[-1].cancel()
    for handle in handles:
        with suppress(RequestCancelledError, DeadlineExceededError):
            handle.wait(60)


def count_objects() -> tuple[int, int, int]:
    """Returns the numbers of tensors, of bytes of their storages, and of handles and sequences in memory."""
    gc.collect()
    # isinstance would load the lazy objects of libraries.
    found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor | Sequence | Handle)]
    tensors = [o for o in found if issubclass(type(o), torch.Tensor)]
    storages = {
        storage.data_ptr(): storage.nbytes()
        for o in tensors
        if not o.is_meta and o.layout == torch.strided and (storage := o.untyped_storage())
    }
    return len(tensors), sum(storages.values()), len(found) - len(tensors)


def measure_peak() -> int:
    """Returns the peak memory of the process, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@pytest.mark.filterwarnings("ignore")  # objects of other libraries that warn when accessed
def test_memory_does_not_grow(tiny: Checkpoint) -> None:
    with Engine(tiny, EngineConfig(max_batch=8, max_waiting=200, feature_cache_bytes=CACHE_BYTES)) as engine:
        run_requests(engine, 100, seed=0)
        tensors, size, _ = count_objects()
        before = measure_peak()
        for batch in range(3):
            run_requests(engine, 100, seed=1000 + 100 * batch)
        more, larger, requests = count_objects()
        stats = engine.get_stats()
        assert stats.finished + stats.failed + stats.cancelled == 400
        assert min(stats.failed, stats.cancelled) > 0
        assert stats.images > 300
        assert 0 < stats.cache.bytes <= CACHE_BYTES
        assert requests <= 4  # the last ones, in local variables of the worker
        assert more <= tensors + 20
        assert larger <= size + MIB // 4
        assert measure_peak() <= before + 24 * MIB


def test_image_is_freed_with_its_request(tiny: Checkpoint) -> None:
    """Without the garbage collector: reference cycles would accumulate under load."""
    image = create_image(0)
    reference_to_image = weakref.ref(image)
    gc.disable()
    try:
        with Engine(tiny) as engine:
            handle = engine.submit(reference.create_request("<OD>", image, beams=1, limit=5))
            handle.wait(60)
            del image
            engine.submit(reference.create_request("<OD>", create_image(1), beams=1, limit=5)).wait(60)
            assert reference_to_image() is None
            handle.cancel()  # too late, which is no error
    finally:
        gc.enable()
