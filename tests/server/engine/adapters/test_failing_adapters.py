"""Adapters that make the model overflow: their prompts fail, and nobody else's."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from server.engine.adapters import registry
from server.engine.adapters.errors import AdapterError, AdapterSuspendedError
from server.engine.checkpoints.loading import Checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.errors import ModelOverflowError
from tests.server.engine import reference
from tests.server.engine.adapters.helpers import TIMEOUT
from tests.server.engine.adapters.test_registry import create_request


def multiply_weights(folder: Path, target: Path, factor: float) -> Path:
    """Copies an adapter with weights that are `factor` times as large."""
    shutil.copytree(folder, target)
    path = target / "adapter_model.safetensors"
    save_file({key: value * factor for key, value in load_file(path).items()}, path)
    return target


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Adapters of the language model, and of the vision encoder, that overflow; their norms are not checked."""
    monkeypatch.setattr(registry, "MAX_NORM", float("inf"))
    monkeypatch.setattr(registry, "MAX_RELATIVE_NORM", float("inf"))
    return {name: multiply_weights(folders[name], tmp_path / name, 1e18) for name in ("text", "all")}


@pytest.mark.parametrize("factor", [1e3, 1e18])
def test_weights_that_would_overflow_are_refused(
    engine: Engine, folders: dict[str, Path], tmp_path: Path, factor: float
) -> None:
    engine.load_adapter("a", multiply_weights(folders["text"], tmp_path / "large", 10.0))  # unusual, but finite
    assert engine.submit(create_request("a")).wait(TIMEOUT).tokens
    with pytest.raises(AdapterError, match=r"changes its weights, whose norm is .*, by up to"):
        engine.load_adapter("a", multiply_weights(folders["text"], tmp_path / "huge", factor))
    engine.unload_adapter("a")


@pytest.mark.parametrize("name", ["text", "all"])
@pytest.mark.parametrize("beams", [1, 3])
def test_an_overflow_fails_only_its_own_prompt(
    tiny: Checkpoint,
    broken: dict[str, Path],
    name: str,
    beams: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No batch is tried again, neither when the prompt is added nor at a later step."""
    monkeypatch.setattr(registry, "MAX_FAILURES", 100)
    names = [None, name, None, name, name, None]
    requests = [create_request(adapter, seed=i % 2, beams=beams) for i, adapter in enumerate(names)]
    with Engine(tiny, EngineConfig(max_batch=len(names))) as engine:
        engine.load_adapter(name, broken[name])
        handles = [engine.submit(request) for request in requests]
        for request, handle in zip(requests, handles, strict=True):
            if request.adapter is None:
                assert handle.wait(TIMEOUT).tokens == reference.generate(tiny, request)
            else:
                with pytest.raises(ModelOverflowError, match=f"the adapter {name} overflows: the logits are not a num"):
                    handle.wait(TIMEOUT)
        assert engine.get_stats().failed == 3
        engine.unload_adapter(name)
    assert "retrying" not in caplog.text


def test_an_adapter_that_fails_again_and_again_is_suspended(
    engine: Engine, broken: dict[str, Path], folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        with pytest.raises(ModelOverflowError):
            engine.submit(create_request("a")).wait(TIMEOUT)

    engine.load_adapter("a", broken["text"])
    for _ in range(registry.MAX_FAILURES):
        fail()
    with pytest.raises(AdapterSuspendedError, match=r"failed on its last 3 prompts; replace it, or retry in") as caught:
        engine.submit(create_request("a"))
    assert 0 < caught.value.retry_after <= registry.SUSPENSION
    submitted = engine.get_stats().submitted
    assert engine.submit(create_request(None)).wait(TIMEOUT).tokens  # the base model is not affected
    assert engine.get_stats().submitted == submitted + 1

    engine.load_adapter("a", folders["text"])  # a replacement starts anew
    assert engine.submit(create_request("a")).wait(TIMEOUT).tokens

    monkeypatch.setattr(registry, "SUSPENSION", 0.0)
    engine.load_adapter("a", broken["text"])
    for _ in range(registry.MAX_FAILURES + 2):  # after the suspension, one prompt is tried, and fails again
        fail()
    engine.unload_adapter("a")


def test_an_answer_ends_a_series_of_failures(folders: dict[str, Path], tiny: Checkpoint) -> None:
    adapters = registry.AdapterRegistry([tiny.model], tiny.sha256, 1 << 24)
    key = adapters.load("a", folders["text"]).key
    for failed in (True, True, False, True, True):
        adapters.record_outcome(key, failed=failed)
        adapters.release(adapters.acquire("a").key)
    adapters.record_outcome(key, failed=True)
    with pytest.raises(AdapterSuspendedError):
        adapters.acquire("a")
    adapters.unload("a")
    adapters.record_outcome(key, failed=True)  # of a request that ended after it was unloaded
