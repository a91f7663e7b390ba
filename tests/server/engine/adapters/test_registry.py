"""Adapters: answers equal those of PEFT token for token, in mixed batches and while adapters are loaded."""

import hashlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prompts.tasks import TASKS
from server.engine.adapters.errors import AdapterError, UnknownAdapterError
from server.engine.adapters.registry import AdapterRegistry
from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import (
    DeadlineExceededError,
    EngineClosedError,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
)
from server.engine.request import Request
from tests.server.engine import reference
from tests.server.engine.adapters.helpers import TIMEOUT, find_adapter_keys
from tests.server.engine.engines import Gate
from tests.server.engine.microsoft_layout import to_microsoft_key
from tests.server.engine.tiny import create_image


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, EngineConfig(max_batch=32, max_waiting=64)) as engine:
        yield engine
    assert find_adapter_keys(tiny) == {adapter.key for adapter in engine.list_adapters()}
    for adapter in engine.list_adapters():
        engine.unload_adapter(adapter.name)
    assert not find_adapter_keys(tiny)


def create_request(
    adapter: str | None, token: str = "<OD>", seed: int = 0, *, beams: int = 1, limit: int = 20
) -> Request:
    return replace(reference.create_request(token, create_image(seed), beams=beams, limit=limit), adapter=adapter)


def test_a_mixed_batch_gives_the_same_answers_as_each_adapter_alone(
    engine: Engine, tiny: Checkpoint, folders: dict[str, Path], gate: Gate
) -> None:
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    tokens = list(TASKS)
    # The first request waits in the decoder until all others are submitted.
    first = engine.submit(create_request(None, limit=3))
    assert gate.reached.wait(TIMEOUT)
    requests = [
        create_request(name, tokens[(3 * i + j) % len(tokens)], j % 2, beams=beams, limit=12 + 5 * j)
        for i, name in enumerate((None, *folders))
        for j, beams in enumerate((1, 3, 1, 3))
    ]
    handles = [engine.submit(request) for request in requests]
    gate.open.set()
    first.wait(TIMEOUT)
    changed = set()
    for request, handle in zip(requests, handles, strict=True):
        result, folder = handle.wait(TIMEOUT), folders.get(request.adapter or "")
        assert result.tokens == reference.generate(tiny, request, adapter=folder), (request.adapter, request.num_beams)
        expected = reference.compute_logprobs(tiny, request, result.tokens, folder)
        assert result.logprobs == pytest.approx(expected, abs=1e-4)
        if folder and result.tokens != reference.generate(tiny, request):
            changed.add(request.adapter)
    assert changed == set(folders)  # every adapter changes an answer
    assert engine.get_stats().rows > 3 * engine.get_stats().steps


def test_features_are_cached_per_vision_adapter(engine: Engine, folders: dict[str, Path]) -> None:
    loaded = {name: engine.load_adapter(name, folder) for name, folder in folders.items()}
    assert {name: adapter.adapts_vision for name, adapter in loaded.items()} == {
        "text": False,
        "all": True,
        "stabilized": True,
    }
    for name in (None, *folders) * 2:
        engine.submit(create_request(name, limit=3)).wait(TIMEOUT)
    assert (engine.get_stats().images, engine.get_stats().cache.hits) == (3, 5)  # base and text share features
    engine.load_adapter("all", folders["text"])
    engine.submit(create_request("all", limit=3)).wait(TIMEOUT)
    assert engine.get_stats().images == 3


def test_a_loaded_adapter_is_described(engine: Engine, folders: dict[str, Path]) -> None:
    adapter = engine.load_adapter("b", folders["all"])
    weights = folders["all"] / "adapter_model.safetensors"
    assert adapter.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    state = load_file(weights)
    assert adapter.bytes == sum(value.nbytes for value in state.values())
    assert (adapter.modules, adapter.rank, adapter.adapts_vision) == (len(state) // 2, 6, True)
    with pytest.raises(AdapterError, match="SHA-256"):
        engine.load_adapter("a", folders["text"], adapter.sha256)
    engine.load_adapter("a", folders["all"], adapter.sha256.upper())
    assert [loaded.name for loaded in engine.list_adapters()] == ["a", "b"]


def test_pickled_weights_and_the_names_of_microsoft_are_accepted(
    engine: Engine, tiny: Checkpoint, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Both give the same answers as the file that PEFT saves by default."""
    folder = folders["all"]
    state = load_file(folder / "adapter_model.safetensors")
    for name in ("pickled", "microsoft"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "adapter_config.json", tmp_path / name)
    torch.save(state, tmp_path / "pickled" / "adapter_model.bin")

    def to_microsoft(key: str) -> str:
        path, half, end = key.removeprefix("base_model.model.").rpartition(".lora_")
        if "image_projection" in path:  # not a module there
            return key
        return "base_model.model." + to_microsoft_key(path + ".weight").removesuffix(".weight") + half + end

    renamed = {to_microsoft(key): value for key, value in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "microsoft" / "adapter_model.safetensors")
    request = create_request("all", limit=20)
    expected = reference.generate(tiny, request, adapter=folder)
    for name in ("pickled", "microsoft"):
        engine.load_adapter("all", tmp_path / name)
        assert engine.submit(request).wait(TIMEOUT).tokens == expected


def test_unloading_does_not_affect_running_requests(
    engine: Engine, tiny: Checkpoint, folders: dict[str, Path], gate: Gate
) -> None:
    engine.load_adapter("all", folders["all"])
    running = engine.submit(create_request("all"))
    assert gate.reached.wait(TIMEOUT)
    waiting = engine.submit(create_request("all", seed=1))
    engine.unload_adapter("all")
    assert engine.list_adapters() == []
    with pytest.raises(InvalidRequestError, match="loaded adapters: none") as error:
        engine.submit(create_request("all"))
    assert error.value.field == "adapter"
    assert len(find_adapter_keys(tiny)) == 1
    gate.open.set()
    for handle, request in ((running, create_request("all")), (waiting, create_request("all", seed=1))):
        assert handle.wait(TIMEOUT).tokens == reference.generate(tiny, request, adapter=folders["all"])
    wait_until_removed(tiny)
    with pytest.raises(UnknownAdapterError):
        engine.unload_adapter("all")


def wait_until_removed(checkpoint: Checkpoint, count: int = 0) -> None:
    """Waits until `count` adapters are left. The worker releases an adapter shortly after it returns the answer."""
    event = threading.Event()
    for _ in range(1000):
        if len(find_adapter_keys(checkpoint)) == count:
            return
        event.wait(0.01)
    raise AssertionError(find_adapter_keys(checkpoint))


def test_replacing_does_not_affect_running_requests(
    engine: Engine, tiny: Checkpoint, folders: dict[str, Path], gate: Gate
) -> None:
    engine.load_adapter("project", folders["all"])
    old = engine.submit(create_request("project"))
    assert gate.reached.wait(TIMEOUT)
    engine.load_adapter("project", folders["stabilized"])
    new = engine.submit(create_request("project"))
    assert len(engine.list_adapters()) == 1
    assert len(find_adapter_keys(tiny)) == 2
    gate.open.set()
    for handle, name in ((old, "all"), (new, "stabilized")):
        assert handle.wait(TIMEOUT).tokens == reference.generate(tiny, create_request(name), adapter=folders[name])
    wait_until_removed(tiny, count=1)


def test_a_request_releases_its_adapter_however_it_ends(
    tiny: Checkpoint, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    engine = Engine(tiny, EngineConfig(max_batch=2, max_waiting=4))
    engine.load_adapter("text", folders["text"])
    late = engine.submit(replace(create_request("text"), timeout=0.01))
    assert gate.reached.wait(TIMEOUT)
    cancelled = [engine.submit(create_request("text")) for _ in range(4)]
    with pytest.raises(OverloadedError):
        engine.submit(create_request("text"))
    with pytest.raises(InvalidRequestError):
        engine.submit(create_request("text", limit=1000))
    for handle in cancelled:
        handle.cancel()
    closed = engine.submit(create_request("text", limit=90))
    engine.unload_adapter("text")
    closing = threading.Thread(target=engine.close, kwargs={"drain": False})
    closing.start()
    while not engine.workers[0].loop.abort_all:
        threading.Event().wait(0.001)
    gate.open.set()
    closing.join(TIMEOUT)
    for handle, error in (
        (late, (DeadlineExceededError, EngineClosedError)),
        (cancelled[0], RequestCancelledError),
        (closed, EngineClosedError),
    ):
        with pytest.raises(error):
            handle.wait(0)
    assert not find_adapter_keys(tiny)
    with pytest.raises(InvalidRequestError):
        engine.submit(create_request("text"))


def test_adapters_are_replaced_while_requests_run(engine: Engine, tiny: Checkpoint, folders: dict[str, Path]) -> None:
    """Every answer comes from one of the two adapters, and never from a mix."""
    engine.load_adapter("project", folders["all"])
    request = create_request("project", limit=10)
    either = [reference.generate(tiny, request, adapter=folders[name]) for name in ("all", "stabilized")]
    assert either[0] != either[1]
    stop = threading.Event()

    def replace_adapter() -> None:
        while not stop.is_set():
            for name in ("stabilized", "all"):
                engine.load_adapter("project", folders[name])

    loader = threading.Thread(target=replace_adapter)
    loader.start()
    try:
        for _ in range(5):
            for handle in [engine.submit(request) for _ in range(6)]:
                assert handle.wait(TIMEOUT).tokens in either
    finally:
        stop.set()
        loader.join(TIMEOUT)
    wait_until_removed(tiny, count=1)


def test_the_capacity_limits_the_adapters_in_the_layers(tiny: Checkpoint, folders: dict[str, Path]) -> None:
    adapters = AdapterRegistry([tiny.model], tiny.sha256, 1 << 20)
    adapters.capacity = 2 * adapters.load("a", folders["all"]).bytes - 1
    with pytest.raises(AdapterError, match=r"unload another"):
        adapters.load("b", folders["all"])
    adapters.load("a", folders["all"])  # an unused adapter is replaced in place
    acquired = adapters.acquire("a")
    with pytest.raises(AdapterError, match=r"unload another"):
        adapters.load("a", folders["all"])
    adapters.release(acquired.key)
    adapters.load("a", folders["text"])
    adapters.capacity = (folders["all"] / "adapter_model.safetensors").stat().st_size - 1
    with pytest.raises(AdapterError, match="--max-adapter-bytes"):
        adapters.load("a", folders["all"])
    adapters.unload("a")
    assert not find_adapter_keys(tiny)
