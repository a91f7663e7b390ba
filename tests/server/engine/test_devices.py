"""Devices by name, and the workers and cores that they get."""

import os
from pathlib import Path

import pytest
import torch

from server.engine.checkpoints.errors import CheckpointError
from server.engine.config import EngineConfig
from server.engine.devices import split_cores
from server.engine.engine import Engine
from tests.server.engine import reference
from tests.server.engine.tiny import create_image

WAIT = 60.0
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two workers on a CPU need two cores")


@pytest.mark.skipif(torch.cuda.is_available(), reason="auto takes the GPU")
def test_small_model_gets_one_worker_per_core_and_a_large_one_all_cores(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = os.sched_getaffinity(0)
    for device, count in (("auto", min(4, len(cores))), ("cpu", 1)):
        with Engine.load(EngineConfig(str(tiny_folder), device=device)) as engine:
            assert len(engine.workers) == count
            assert engine.submit(reference.create_request("<OD>", create_image(), beams=1, limit=9)).wait(WAIT).tokens
    monkeypatch.setattr("server.engine.devices.SMALL_MODEL_PARAMETERS", 1000)
    with Engine.load(EngineConfig(str(tiny_folder))) as engine:
        assert len(engine.workers) == 1
    monkeypatch.undo()
    os.sched_setaffinity(0, {min(cores)})
    try:
        with Engine.load(EngineConfig(str(tiny_folder))) as engine:
            assert len(engine.workers) == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_list_of_devices(tiny_folder: Path) -> None:
    with Engine.load(EngineConfig(str(tiny_folder), device="cpu, cpu")) as engine:
        first, second = (worker.runner for worker in engine.workers)
        assert first.model is second.model
        assert engine.submit(reference.create_request("<OD>", create_image(), beams=1, limit=4)).wait(WAIT).tokens
    for wrong in ("cpu,abacus", "cpu,", ",".join(["cpu"] * 1000)):
        with pytest.raises(CheckpointError, match=r"cannot be used|cores"):
            Engine.load(EngineConfig(str(tiny_folder), device=wrong))


def test_split_cores_into_adjacent_groups() -> None:
    here = sorted(os.sched_getaffinity(0))
    assert split_cores(1) == [here]
    parts = split_cores(2)
    assert [core for part in parts for core in part] == here
    assert abs(len(parts[0]) - len(parts[1])) <= 1
