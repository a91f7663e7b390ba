"""Scales of scores: rising, within 0 to 1, told apart by weights; applied to their own answers alone."""

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
from server.engine.engine import Engine
from server.engine.request import Request, Result
from tests.server.engine import reference
from tests.server.engine.tiny import picture, save_adapter

quick = settings(derandomize=True, deadline=None, max_examples=200, database=None)
scores = st.floats(1e-6, 1 - 1e-6)
temperatures = st.builds(TemperatureScale, temperature=st.floats(0.02, 60), shift=st.floats(-20, 20))


@st.composite
def curves(draw: st.DrawFn) -> IsotonicScale:
    size = draw(st.integers(1, 5))
    numbers = st.lists(st.floats(0.001, 0.999), min_size=size, max_size=size, unique=True).map(sorted)
    return IsotonicScale(scores=tuple(draw(numbers)), shares=tuple(draw(numbers)))


@quick
@given(scale=temperatures | curves(), values=st.lists(scores, min_size=2, max_size=6))
def test_scores_stay_within_0_to_1_and_in_order(scale: TemperatureScale | IsotonicScale, values: list[float]) -> None:
    mapped = [scale(value) for value in sorted(values)]
    assert all(0 < value < 1 for value in mapped)
    assert all(a <= b for a, b in pairwise(mapped))


def test_a_temperature_of_one_changes_next_to_nothing() -> None:
    for score in (1e-6, 0.1, 0.5, 0.9, 1 - 1e-6):
        assert TemperatureScale(temperature=1.0)(score) == pytest.approx(score)


def test_a_high_temperature_makes_less_sure_and_a_shift_moves() -> None:
    assert 0.5 < TemperatureScale(temperature=3)(0.9) < 0.9
    assert 0.1 < TemperatureScale(temperature=3)(0.1) < 0.5
    assert TemperatureScale(temperature=1, shift=1)(0.5) == pytest.approx(0.731, abs=1e-3)


def test_lines_between_the_knots_and_to_the_corners() -> None:
    curve = IsotonicScale(scores=(0.2, 0.6), shares=(0.5, 0.9))
    assert [curve(x) for x in (0.1, 0.2, 0.4, 0.6, 0.8)] == pytest.approx([0.25, 0.5, 0.7, 0.9, 0.95])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Invalid JSON"),
        ('{"adapter_sha256": "a", "tasks": {"<OD>": {"kind": "temperature", "temperature": -1}}}', "greater than 0"),
        ('{"adapter_sha256": "a", "tasks": {"<OD>": {"kind": "temperature", "temperature": NaN}}}', "."),
        ('{"adapter_sha256": "a", "tasks": {"<OD>": {"kind": "isotonic", "scores": [0.5, 0.4], "shares": [0.1, 0.2]}}}',
         "rise"),
        ('{"adapter_sha256": "a", "tasks": {"<OD>": {"kind": "isotonic", "scores": [0.5], "shares": []}}}', "as many"),
        ('{"adapter_sha256": "b", "tasks": {}}', "of the weights b, and these are a"),
        (b"\xff", "utf-8"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_what_to_do(tmp_path: Path, text: str | bytes, why: str) -> None:
    (tmp_path / CALIBRATION_FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CalibrationError, match=why) as caught:
        read_calibration(tmp_path, "a")
    assert "remove" in str(caught.value)


def test_written_and_read(tmp_path: Path) -> None:
    made = Calibration(
        sha256="a",
        tasks={
            "<OD>": TemperatureScale(temperature=2.5, shift=-1),
            "<OCR>": IsotonicScale(scores=(0.5,), shares=(0.25,)),
        },
    )
    write_calibration(tmp_path, made)
    assert read_calibration(tmp_path, "a") == made
    assert made.scale(TASKS["<OD>"]) == TemperatureScale(temperature=2.5, shift=-1)
    assert made.scale(TASKS["<CAPTION>"]) is None
    (tmp_path / CALIBRATION_FILE).unlink()
    assert read_calibration(tmp_path, "a") is None


def test_what_has_no_score_stays() -> None:
    notes = [Box(label="cat", box=(0, 0, 1, 1), score=0.5), Text(label="a")]
    half = IsotonicScale(scores=(0.5,), shares=(0.25,))
    assert apply_scale(notes, half) == [notes[0].model_copy(update={"score": 0.25}), notes[1]]
    assert apply_scale(notes, None) == notes


@pytest.fixture
def engine(tiny: Checkpoint) -> Iterator[Engine]:
    with Engine(tiny, max_batch=4) as made:
        yield made
        for adapter in made.adapters():  # the model is others' too
            made.unload_adapter(adapter.name)


def ask(engine: Engine, adapter: str | None, token: str = "<CAPTION>") -> Result:
    asked: Request = replace(reference.request(token, picture(0), beams=1, limit=12), adapter=adapter)
    return engine.submit(asked).wait(60)


async def test_the_adapters_answers_are_on_its_scale_streamed_ones_too(engine: Engine, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", seed=3, target_modules=["q_proj", "v_proj"])
    sha256 = engine.load_adapter("a", folder).sha256
    before = {token: ask(engine, "a", token) for token in ("<CAPTION>", "<REGION_TO_CATEGORY>")}
    base = ask(engine, None)
    half = IsotonicScale(scores=(0.5,), shares=(0.001,))
    write_calibration(folder, Calibration(sha256=sha256, tasks={"<CAPTION>": half}))
    engine.load_adapter("a", folder)
    after = ask(engine, "a")
    assert after.tokens == before["<CAPTION>"].tokens
    assert after.annotations == apply_scale(before["<CAPTION>"].annotations, half)
    assert after.annotations != before["<CAPTION>"].annotations
    asked = replace(reference.request("<CAPTION>", picture(0), beams=1, limit=12), adapter="a")
    assert [note async for note in engine.submit(asked).stream()] == after.annotations
    # Neither the adapter's other tasks nor the base's own answers.
    assert ask(engine, "a", "<REGION_TO_CATEGORY>").annotations == before["<REGION_TO_CATEGORY>"].annotations
    assert ask(engine, None).annotations == base.annotations


def test_a_checkpoints_own_calibration_is_for_its_own_answers_alone(tiny: Checkpoint, tmp_path: Path) -> None:
    half = IsotonicScale(scores=(0.5,), shares=(0.001,))
    scales = Calibration(sha256=tiny.sha256, tasks={"<CAPTION>": half})
    folder = save_adapter(tmp_path / "a", seed=3, target_modules=["q_proj", "v_proj"])
    with Engine(tiny, max_batch=4) as bare, Engine(replace(tiny, calibration=scales), max_batch=4) as engine:
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


def test_a_checkpoint_with_a_calibration_of_other_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "seedling"
    shutil.copytree(load_checkpoint().folder, folder)
    write_calibration(folder, Calibration(sha256="0" * 64, tasks={}))
    with pytest.raises(CheckpointError, match="calibrate it again, or remove the file"):
        load_checkpoint(str(folder))


def test_another_programs_file_of_that_name_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "seedling"
    shutil.copytree(load_checkpoint().folder, folder)
    (folder / CALIBRATION_FILE).write_text('{"method": "gptq"}')
    assert load_checkpoint(str(folder)).calibration is None
    assert "its scores are served as they are" in caplog.text


def test_the_older_name_of_the_hash_is_read(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION_FILE).write_text('{"adapter_sha256": "a", "tasks": {}}')
    assert read_calibration(tmp_path, "a") == Calibration(sha256="a", tasks={})


def test_a_calibration_of_other_weights_is_not_served(engine: Engine, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "a", target_modules=["q_proj"])
    (folder / CALIBRATION_FILE).write_text(json.dumps({"adapter_sha256": "0" * 64, "tasks": {}}))
    with pytest.raises(AdapterError, match="calibrate it again, or remove the file"):
        engine.load_adapter("a", folder)
    assert engine.adapters() == []
