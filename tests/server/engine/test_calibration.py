"""Calibration: its scales, its file, and the scores that the engine calibrates."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts.annotations import Box, Text
from prompts.tasks import TASKS
from server.engine.adapters.errors import AdapterError
from server.engine.calibration import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationError,
    IsotonicScale,
    TemperatureScale,
    apply_scale,
    read_calibration,
    write_calibration,
)
from server.engine.checkpoints.errors import CheckpointError
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request, Result
from tests.server.engine import reference
from tests.server.engine.tiny import create_image, save_adapter

quick = settings(derandomize=True, deadline=None, max_examples=200, database=None)
scores = st.floats(1e-6, 1 - 1e-6)
temperatures = st.builds(TemperatureScale, temperature=st.floats(0.02, 60), shift=st.floats(-20, 20))


@st.composite
def curves(draw: st.DrawFn) -> IsotonicScale:
    size = draw(st.integers(1, 5))
    numbers = st.lists(st.floats(0.001, 0.999), min_size=size, max_size=size, unique=True).map(sorted)
    return IsotonicScale(scores=tuple(draw(numbers)), calibrated_scores=tuple(draw(numbers)))


@quick
@given(scale=temperatures | curves(), values=st.lists(scores, min_size=2, max_size=6))
def test_scores_stay_within_0_to_1_and_in_order(scale: TemperatureScale | IsotonicScale, values: list[float]) -> None:
    mapped = [scale(value) for value in sorted(values)]
    assert all(0 < value < 1 for value in mapped)
    assert all(a <= b for a, b in pairwise(mapped))


def test_a_temperature_of_one_changes_almost_nothing() -> None:
    for score in (1e-6, 0.1, 0.5, 0.9, 1 - 1e-6):
        assert TemperatureScale(temperature=1.0)(score) == pytest.approx(score)


def test_a_high_temperature_lowers_confidence_and_a_shift_moves_scores() -> None:
    assert 0.5 < TemperatureScale(temperature=3)(0.9) < 0.9
    assert 0.1 < TemperatureScale(temperature=3)(0.1) < 0.5
    assert TemperatureScale(temperature=1, shift=1)(0.5) == pytest.approx(0.731, abs=1e-3)


def test_an_isotonic_scale_is_linear_between_its_points() -> None:
    curve = IsotonicScale(scores=(0.2, 0.6), calibrated_scores=(0.5, 0.9))
    assert [curve(x) for x in (0.1, 0.2, 0.4, 0.6, 0.8)] == pytest.approx([0.25, 0.5, 0.7, 0.9, 0.95])


def isotonic(scores: list[float], calibrated_scores: list[float]) -> str:
    """Returns a calibration file with one isotonic scale."""
    scale = {"kind": "isotonic", "scores": scores, "calibrated_scores": calibrated_scores}
    return json.dumps({"sha256": "a", "tasks": {"<OD>": scale}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ('{"sha256": "a", "tasks": {"<OD>": {"kind": "temperature", "temperature": -1}}}', "greater than 0"),
        ('{"sha256": "a", "tasks": {"<OD>": {"kind": "temperature", "temperature": NaN}}}', "."),
        (isotonic([0.5, 0.4], [0.1, 0.2]), "increasing"),
        (isotonic([0.5], []), "same length"),
        ('{"sha256": "b", "tasks": {}}', "belongs to the weights b, and these are a"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_broken_file_is_rejected_with_its_reason(tmp_path: Path, text: str | bytes, reason: str) -> None:
    (tmp_path / CALIBRATION_FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CalibrationError, match=reason) as caught:
        read_calibration(tmp_path, "a")
    assert "remove" in str(caught.value)


def test_a_calibration_is_written_and_read(tmp_path: Path) -> None:
    calibration = Calibration(
        sha256="a",
        tasks={
            "<OD>": TemperatureScale(temperature=2.5, shift=-1),
            "<OCR>": IsotonicScale(scores=(0.5,), calibrated_scores=(0.25,)),
        },
    )
    write_calibration(tmp_path, calibration)
    assert read_calibration(tmp_path, "a") == calibration
    assert calibration.get_scale(TASKS["<OD>"]) == TemperatureScale(temperature=2.5, shift=-1)
    assert calibration.get_scale(TASKS["<CAPTION>"]) is None
    (tmp_path / CALIBRATION_FILE).unlink()
    assert read_calibration(tmp_path, "a") is None


def test_an_annotation_without_a_score_stays_unchanged() -> None:
    annotations = [Box(label="cat", box=(0, 0, 1, 1), score=0.5), Text(label="a")]
    half = IsotonicScale(scores=(0.5,), calibrated_scores=(0.25,))
    assert apply_scale(annotations, half) == [annotations[0].model_copy(update={"score": 0.25}), annotations[1]]
    assert apply_scale(annotations, None) == annotations


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, EngineConfig(max_batch=4)) as made:
        yield made
        for adapter in made.list_adapters():  # other tests use the same model
            made.unload_adapter(adapter.name)


def ask(engine: Engine, adapter: str | None, token: str = "<CAPTION>") -> Result:
    request: Request = replace(reference.create_request(token, create_image(0), beams=1, limit=12), adapter=adapter)
    return engine.submit(request).wait(60)


async def test_the_answers_of_an_adapter_are_calibrated_also_when_streamed(engine: Engine, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", seed=3, target_modules=["q_proj", "v_proj"])
    sha256 = engine.load_adapter("a", folder).sha256
    before = {token: ask(engine, "a", token) for token in ("<CAPTION>", "<REGION_TO_CATEGORY>")}
    base = ask(engine, None)
    half = IsotonicScale(scores=(0.5,), calibrated_scores=(0.001,))
    write_calibration(folder, Calibration(sha256=sha256, tasks={"<CAPTION>": half}))
    engine.load_adapter("a", folder)
    after = ask(engine, "a")
    assert after.tokens == before["<CAPTION>"].tokens
    assert after.annotations == apply_scale(before["<CAPTION>"].annotations, half)
    assert after.annotations != before["<CAPTION>"].annotations
    request = replace(reference.create_request("<CAPTION>", create_image(0), beams=1, limit=12), adapter="a")
    assert [annotation async for annotation in engine.submit(request).stream()] == after.annotations
    # Other tasks of the adapter and the base model are not calibrated.
    assert ask(engine, "a", "<REGION_TO_CATEGORY>").annotations == before["<REGION_TO_CATEGORY>"].annotations
    assert ask(engine, None).annotations == base.annotations


def test_the_calibration_of_a_checkpoint_does_not_apply_to_adapters(tiny: Checkpoint, tmp_path: Path) -> None:
    half = IsotonicScale(scores=(0.5,), calibrated_scores=(0.001,))
    scales = Calibration(sha256=tiny.sha256, tasks={"<CAPTION>": half})
    folder = save_adapter(tmp_path / "a", seed=3, target_modules=["q_proj", "v_proj"])
    with (
        Engine(tiny, EngineConfig(max_batch=4)) as bare,
        Engine(replace(tiny, calibration=scales), EngineConfig(max_batch=4)) as engine,
    ):
        plain, after = ask(bare, None), ask(engine, None)
        assert after.tokens == plain.tokens
        assert after.annotations == apply_scale(plain.annotations, half) != plain.annotations
        other = "<REGION_TO_CATEGORY>"
        assert ask(engine, None, other).annotations == ask(bare, None, other).annotations
        for one in (bare, engine):
            one.load_adapter("a", folder)
        assert ask(engine, "a").annotations == ask(bare, "a").annotations
        for one in (bare, engine):
            one.unload_adapter("a")


def test_a_checkpoint_with_a_calibration_of_other_weights_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "seedling"
    shutil.copytree(load_checkpoint().folder, folder)
    write_calibration(folder, Calibration(sha256="0" * 64, tasks={}))
    with pytest.raises(CheckpointError, match="calibrate it again, or remove the file"):
        load_checkpoint(str(folder))


def test_a_calibration_file_of_another_program_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "seedling"
    shutil.copytree(load_checkpoint().folder, folder)
    (folder / CALIBRATION_FILE).write_text('{"method": "gptq"}')
    assert load_checkpoint(str(folder)).calibration is None
    assert "its scores are not calibrated" in caplog.text


def test_the_old_name_of_the_hash_is_accepted(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION_FILE).write_text('{"adapter_sha256": "a", "tasks": {}}')
    assert read_calibration(tmp_path, "a") == Calibration(sha256="a", tasks={})


def test_a_calibration_of_other_weights_is_not_served(engine: Engine, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", target_modules=["q_proj"])
    (folder / CALIBRATION_FILE).write_text(json.dumps({"sha256": "0" * 64, "tasks": {}}))
    with pytest.raises(AdapterError, match="calibrate it again, or remove the file"):
        engine.load_adapter("a", folder)
    assert engine.list_adapters() == []
