"""Memory is flat: what a request took is gone when it has ended, however it ended. The 10,000 are a benchmark."""

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
from server.engine.engine import Engine
from server.engine.errors import DeadlineExceededError, RequestCancelledError
from server.engine.handle import Handle
from server.engine.sequence import Sequence
from tests.server.engine import reference
from tests.server.engine.tiny import picture

PICTURES = 6 << 10  # bytes of features that the cache may hold: some ten pictures of the tiny model
MIB = 1 << 20


def serve(engine: Engine, count: int, seed: int) -> None:
    """Requests of every kind, all pictures new, nearly all with a deadline far off; a few end before they are done."""
    handles: list[Handle] = []
    for i in range(count):
        request = reference.request(
            list(TASKS)[i % 15], picture(seed + i), beams=(1, 1, 3, 2)[i % 4], limit=(5, 24, 9)[i % 3]
        )
        late = {7: 0.0, 9: None}.get(i % 20, 3600.0)
        handles.append(engine.submit(replace(request, timeout=late, client=f"client {i}", interactive=i % 3 > 0)))
        if i % 10 == 3:
            handles[-1].cancel()
    for handle in handles:
        with suppress(RequestCancelledError, DeadlineExceededError):
            handle.wait(60)


def held() -> tuple[int, int, int]:
    """Tensors, the bytes of what they stand on, and requests that are still there."""
    gc.collect()
    # isinstance would wake the lazy objects of libraries.
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor | Sequence | Handle)]
    tensors = [thing for thing in found if issubclass(type(thing), torch.Tensor)]
    storages = {
        storage.data_ptr(): storage.nbytes()
        for thing in tensors
        if not thing.is_meta and thing.layout == torch.strided and (storage := thing.untyped_storage())
    }
    return len(tensors), sum(storages.values()), len(found) - len(tensors)


def peak() -> int:
    """Bytes: the most that the process ever held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


@pytest.mark.filterwarnings("ignore")  # objects of other libraries that warn of being looked at
def test_memory_is_flat(tiny: Checkpoint) -> None:
    with Engine(tiny, max_batch=8, max_waiting=200, cache_bytes=PICTURES) as engine:
        serve(engine, 100, seed=0)
        tensors, size, _ = held()
        before = peak()
        for batch in range(3):
            serve(engine, 100, seed=1000 + 100 * batch)
        more, larger, requests = held()
        stats = engine.stats()
        assert stats.finished + stats.failed + stats.cancelled == 400
        assert min(stats.failed, stats.cancelled) > 0
        assert stats.pictures > 300
        assert 0 < stats.cache.bytes <= PICTURES
        assert requests <= 4  # the last ones, in the worker's hands
        assert more <= tensors + 20
        assert larger <= size + MIB // 4
        assert peak() <= before + 24 * MIB


def test_a_picture_is_gone_with_its_request(tiny: Checkpoint) -> None:
    """At once: what waits for the collector of circles grows with every request under load."""
    image = picture(0)
    gone = weakref.ref(image)
    gc.disable()
    try:
        with Engine(tiny) as engine:
            handle = engine.submit(reference.request("<OD>", image, beams=1, limit=5))
            handle.wait(60)
            del image
            engine.submit(reference.request("<OD>", picture(1), beams=1, limit=5)).wait(60)
            assert gone() is None
            handle.cancel()  # too late, and no error
    finally:
        gc.enable()
