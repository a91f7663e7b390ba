"""Scales fitted: against what is known, and on the seedling's real answers."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from finetune.calibration import apply, calibrate, calibrate_checkpoint, fit, isotonic, main, temperature
from finetune.evaluation.reliability import auroc, ece
from finetune.evaluation.report import examine
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET
from seedling.scenes.samples import make_sample
from server.engine.calibration import (
    CALIBRATION_FILE,
    Calibration,
    IsotonicScale,
    TemperatureScale,
    read_calibration,
    write_calibration,
)
from server.engine.config import EngineConfig
from server.engine.engine import Engine

Scores = list[tuple[float, bool]]


def sure(count: int, heat: float, shift: float = 0.0, seed: int = 0) -> Scores:
    """Answers whose logits are `heat` times too sure, and moved."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    right = rng.random(count) < 1 / (1 + np.exp(-logits))
    said = 1 / (1 + np.exp(-heat * (logits - shift)))
    return list(zip(np.clip(said, 1e-6, 1 - 1e-6).tolist(), right.tolist(), strict=True))


@pytest.mark.parametrize(("heat", "shift"), [(3.0, 0.0), (0.5, 0.0), (2.0, 1.0)])
def test_the_temperature_that_spoilt_the_scores_is_found(heat: float, shift: float) -> None:
    scale = temperature(sure(20_000, heat, shift))
    assert scale.temperature == pytest.approx(heat, rel=0.1)
    assert scale.shift == pytest.approx(shift, abs=0.1)


@pytest.mark.parametrize("fitted", [temperature, isotonic])
def test_other_answers_of_the_same_kind_are_calibrated(fitted: type) -> None:
    scale = fitted(sure(5000, 3.0, 0.7, seed=1))
    held_out = sure(5000, 3.0, 0.7, seed=2)
    after = apply(scale, held_out)
    assert ece(after) < 0.03 < ece(held_out)
    assert auroc(after) == pytest.approx(auroc(held_out), abs=1e-6)  # the order is kept


def test_isotonic_pools_by_hand() -> None:
    scores = [(0.1, False), (0.2, True), (0.3, False), (0.6, True), (0.6, False), (0.9, True)]
    curve = isotonic(scores)
    assert curve.scores == pytest.approx((0.1, (0.2 + 0.3 + 0.6 + 0.6) / 4, 0.9))
    assert curve.calibrated_scores == pytest.approx((1 / 8, 0.5, 7 / 8))


def slow_isotonic(values: list[bool]) -> list[float]:
    """Least squares under order, by the max-min formula (Robertson et al. 1988)."""
    mean = lambda a, b: sum(values[a : b + 1]) / (b + 1 - a)  # noqa: E731
    n = len(values)
    return [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


def test_isotonic_is_the_least_squares_curve() -> None:
    scores = sorted(sure(60, 1.5, seed=3))
    curve = isotonic(scores)
    wanted = sorted({round(min(max(v, 1 / 62), 61 / 62), 9) for v in slow_isotonic([ok for _, ok in scores])})
    assert [round(v, 9) for v in curve.calibrated_scores] == wanted


def test_few_answers_or_all_alike_are_left_as_they_are() -> None:
    assert fit(sure(19, 2.0)) is None
    assert fit([(0.5 + i / 100, True) for i in range(40)]) is None
    assert isinstance(fit(sure(999, 2.0)), TemperatureScale)
    assert isinstance(fit(sure(1000, 2.0)), IsotonicScale)


def test_answers_that_are_told_apart_keep_a_slope() -> None:
    scores = [(0.4 + i / 1000, False) for i in range(20)] + [(0.6 + i / 1000, True) for i in range(20)]
    scale = temperature(scores)
    assert 0.01 < scale.temperature < 1
    assert 0.5 < scale(0.6) < 1


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(EngineConfig("seedling", device="cpu")) as engine:
        yield engine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of the seedling that changes nothing."""
    name = "base_model.model.model.language_model.decoder.layers.0.self_attn.q_proj"
    weights = {f"{name}.lora_A.weight": torch.ones(2, 192), f"{name}.lora_B.weight": torch.zeros(192, 2)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def asked(seeds: range) -> list[tuple[LabeledImage, list[Sample]]]:
    """What is on scenes of emoji that the seedling was not taught: there it is wrong often."""
    made = []
    for seed in seeds:
        scene = draw_scene(seed, sets=(HOLDOUT_SET,), objects=(2, 4), words=(0, 0))
        question = make_sample(scene, "<OD>", np.random.default_rng(seed))
        assert question is not None
        image = scene.image
        made.append((LabeledImage(f"{seed}", f"{seed}", *image.size, (), lambda image=image: image), [question]))
    return made


def test_one_that_fails_leaves_the_old_one(engine: Engine, folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    old = Calibration(sha256=sha256, tasks={"<OD>": TemperatureScale(temperature=2.0)})
    write_calibration(folder, old)

    def lost() -> Image.Image:
        raise RuntimeError("the memory is full")

    ((example, questions),) = asked(range(1))
    with pytest.raises(RuntimeError, match="the memory is full"):
        calibrate(engine, "mine", folder, [(replace(example, open=lost), questions)])
    assert read_calibration(folder, sha256) == old
    assert calibrate(engine, "mine", folder, [(example, questions)]) == {}  # too few answers
    assert read_calibration(folder, sha256) is None


def test_the_server_puts_the_adapters_scores_on_the_scale(
    engine: Engine, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = calibrate(engine, "mine", folder, asked(range(12)))
    (loaded,) = [adapter for adapter in engine.list_adapters() if adapter.name == "mine"]
    assert loaded.calibration is not None
    assert read_calibration(folder, loaded.sha256) == loaded.calibration
    assert loaded.calibration.tasks == {"<OD>": found["<OD>"].scale}
    other = asked(range(500, 503))
    bare = tmp_path_factory.mktemp("bare")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(folder / name, bare)
    engine.load_adapter("bare", bare)
    before = examine(engine, other, adapter="bare").tasks["<OD>"]
    after = examine(engine, other, adapter="mine").tasks["<OD>"]
    expected = [score for score, _ in apply(found["<OD>"].scale, before.scores)]
    assert [score for score, _ in after.scores] == pytest.approx(expected, abs=1e-3)
    assert after.corrections == before.corrections


def test_a_checkpoints_own_scores_are_calibrated_anew(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(engine.checkpoint.folder, folder)
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    with Engine.load(EngineConfig(str(folder), device="cpu")) as bare:
        before = examine(bare, asked(range(500, 503))).tasks["<OD>"]
    write_calibration(
        folder, Calibration(sha256=engine.checkpoint.sha256, tasks={"<OD>": TemperatureScale(temperature=40.0)})
    )
    found = calibrate_checkpoint(folder, asked(range(12)))  # not on top of the old one
    with Engine.load(EngineConfig(str(folder), device="cpu")) as calibrated:
        assert calibrated.checkpoint.calibration is not None
        assert calibrated.checkpoint.calibration.tasks == {"<OD>": found["<OD>"].scale}
        after = examine(calibrated, asked(range(500, 503))).tasks["<OD>"]
    expected = [score for score, _ in apply(found["<OD>"].scale, before.scores)]
    assert [score for score, _ in after.scores] == pytest.approx(expected, abs=1e-3)
    assert after.corrections == before.corrections


def test_the_command_calibrates_a_folder_and_refuses_what_is_none(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(engine.checkpoint.folder, folder)
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    main(folder, scenes=8)
    assert "<DENSE_REGION_CAPTION>: error of" in capsys.readouterr().out
    assert read_calibration(folder, engine.checkpoint.sha256) is not None
    kept = (folder / CALIBRATION_FILE).read_bytes()
    with pytest.raises(SystemExit, match="nothing was changed"):
        main(folder, scenes=1)
    assert (folder / CALIBRATION_FILE).read_bytes() == kept
    with pytest.raises(SystemExit, match="there is no dataset"):
        main(folder, tmp_path / "none")
    with pytest.raises(typer.BadParameter, match="is no folder"):
        main(tmp_path / "none")


@pytest.mark.slow
def test_the_seedlings_scores_on_emoji_it_never_saw_are_calibrated(engine: Engine, folder: Path) -> None:
    """Fitted on one half of the scenes, tried on the other."""
    found = calibrate(engine, "mine", folder, asked(range(80)))
    other = examine(engine, asked(range(500, 580))).tasks["<OD>"].scores
    after = apply(found["<OD>"].scale, other)
    print(f"ECE of {len(other)} answers: {ece(other):.3f} before, {ece(after):.3f} after; AUROC {auroc(other):.3f}")
    assert ece(after) < ece(other)
    assert auroc(after) == pytest.approx(auroc(other))


def test_too_few_answers_leave_no_file(engine: Engine, folder: Path) -> None:
    (folder / CALIBRATION_FILE).write_text("{")
    assert calibrate(engine, "mine", folder, asked(range(1))) == {}
    assert not (folder / CALIBRATION_FILE).exists()
