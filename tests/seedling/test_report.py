"""The report on unseen scenes."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from labels.sample import Sample
from prompts.tasks import FLORENCE_TASKS
from seedling import report
from seedling.scenes import samples
from seedling.scenes.glyphs import HOLDOUT_SET, TRAINING_SETS
from seedling.scenes.scene import Scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request


class FakeEngine:
    """Answers the report's own samples correctly, or with nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, correct: bool) -> None:
        self.requests: list[Request] = []
        self.pending: list[Sample] = []
        self.correct, self.closed = correct, False
        make_sample = samples.make_sample

        def record(scene: Scene, token: str, rng: np.random.Generator) -> Sample | None:
            sample = make_sample(scene, token, rng)
            if sample:
                self.pending.append(sample)
            return sample

        monkeypatch.setattr(report.samples, "make_sample", record)

    def submit(self, request: Request) -> SimpleNamespace:
        self.requests.append(request)
        sample = self.pending.pop(0)
        assert (sample.task, sample.text, sample.region) == (request.task, request.text, request.region)
        answer = list(sample.answer) if self.correct else []
        return SimpleNamespace(wait=lambda: SimpleNamespace(annotations=answer))

    def close(self) -> None:
        self.closed = True


def test_measure_sends_every_task_of_every_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(monkeypatch, correct=True)
    metrics = report.measure(engine, 4, TRAINING_SETS)  # type: ignore[arg-type]
    assert metrics == dict.fromkeys(metrics, 1.0)
    assert len(engine.requests) >= 4 * (len(FLORENCE_TASKS) - 1)  # a scene without words has no region to read
    assert {request.task.token for request in engine.requests} == set(FLORENCE_TASKS)
    for request in engine.requests:  # raises as the engine would
        request.task.build_prompt(request.text, request.region, request.image.size)


@pytest.mark.parametrize("correct", [True, False])
def test_the_command_writes_strict_json(correct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(monkeypatch, correct=correct)
    monkeypatch.setattr(report, "Engine", SimpleNamespace(load=lambda config: engine))
    monkeypatch.setattr(report, "measure_robustness", lambda engine, scenes: {"blur: mAP@50 drop": 0.25})
    report.main("seedling", scenes=2, out=tmp_path / "metrics.json")
    written = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert written.keys() == {"scenes", "training_glyphs", HOLDOUT_SET, "robustness"}
    assert written["training_glyphs"]["<OD> mAP@50"] == float(correct)
    assert written["training_glyphs"]["<OD> F1@0.5"] == float(correct)
    assert engine.closed


@pytest.mark.usefixtures("one_thread")
def test_errors_and_false_positives_are_drawn(tmp_path: Path) -> None:
    with Engine.load(EngineConfig("seedling", device="cpu")) as engine:
        report.write_pages(engine, tmp_path / "page", 1)
    page = (tmp_path / "page" / "errors.html").read_text()
    assert "1 drawn scenes that training never used" in page
    assert "&lt;OD&gt;" in page
    with Image.open(tmp_path / "page" / "false-positives.png") as sheet:
        assert sheet.width > 1600
