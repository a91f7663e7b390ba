"""Calibration of synthetic scores with known errors, and of the seedling's answers."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from finetune.calibration import (
    apply_scale,
    calibrate_adapter,
    calibrate_checkpoint,
    fit_isotonic,
    fit_scale,
    fit_temperature,
)
from finetune.evaluation.reliability import compute_auroc, compute_ece
from finetune.evaluation.report import evaluate_samples
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET
from seedling.scenes.samples import make_sample
from server.engine.adapters.class_list import write_class_list
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


def make_scores(count: int, temperature: float, shift: float = 0.0, seed: int = 0) -> Scores:
    """Returns scores whose logits are `temperature` times too large, and shifted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    correct = rng.random(count) < 1 / (1 + np.exp(-logits))
    scores = 1 / (1 + np.exp(-temperature * (logits - shift)))
    return list(zip(np.clip(scores, 1e-6, 1 - 1e-6).tolist(), correct.tolist(), strict=True))


@pytest.mark.parametrize(("temperature", "shift"), [(3.0, 0.0), (0.5, 0.0), (2.0, 1.0)])
def test_a_known_temperature_is_found(temperature: float, shift: float) -> None:
    scale = fit_temperature(make_scores(20_000, temperature, shift))
    assert scale.temperature == pytest.approx(temperature, rel=0.1)
    assert scale.shift == pytest.approx(shift, abs=0.1)


@pytest.mark.parametrize("fit", [fit_temperature, fit_isotonic])
def test_other_answers_with_the_same_error_are_calibrated(
    fit: Callable[[Scores], TemperatureScale | IsotonicScale],
) -> None:
    scale = fit(make_scores(5000, 3.0, 0.7, seed=1))
    holdout = make_scores(5000, 3.0, 0.7, seed=2)
    after = apply_scale(scale, holdout)
    assert compute_ece(after) < 0.03 < compute_ece(holdout)
    assert compute_auroc(after) == pytest.approx(compute_auroc(holdout), abs=1e-6)  # the order is kept


def test_isotonic_pools_adjacent_violators() -> None:
    scores = [(0.1, False), (0.2, True), (0.3, False), (0.6, True), (0.6, False), (0.9, True)]
    curve = fit_isotonic(scores)
    assert curve.scores == pytest.approx((0.1, (0.2 + 0.3 + 0.6 + 0.6) / 4, 0.9))
    assert curve.calibrated_scores == pytest.approx((1 / 8, 0.5, 7 / 8))


def fit_isotonic_slowly(values: list[bool]) -> list[float]:
    """Computes isotonic least squares by the max-min formula (Robertson et al. 1988)."""
    mean = lambda a, b: sum(values[a : b + 1]) / (b + 1 - a)  # noqa: E731
    n = len(values)
    return [max(min(mean(a, b) for b in range(i, n)) for a in range(i + 1)) for i in range(n)]


def test_isotonic_is_the_least_squares_curve() -> None:
    scores = sorted(make_scores(60, 1.5, seed=3))
    curve = fit_isotonic(scores)
    expected = sorted({round(min(max(v, 1 / 62), 61 / 62), 9) for v in fit_isotonic_slowly([ok for _, ok in scores])})
    assert [round(v, 9) for v in curve.calibrated_scores] == expected


def test_too_few_or_identical_answers_have_no_scale() -> None:
    assert fit_scale(make_scores(19, 2.0)) is None
    assert fit_scale([(0.5 + i / 100, True) for i in range(40)]) is None
    assert isinstance(fit_scale(make_scores(999, 2.0)), TemperatureScale)
    assert isinstance(fit_scale(make_scores(1000, 2.0)), IsotonicScale)


def test_separated_answers_keep_a_finite_slope() -> None:
    scores = [(0.4 + i / 1000, False) for i in range(20)] + [(0.6 + i / 1000, True) for i in range(20)]
    scale = fit_temperature(scores)
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


def make_samples(seeds: range) -> list[tuple[LabeledImage, list[Sample]]]:
    """Returns scenes of emoji that the seedling was not trained on, so that it is often wrong."""
    samples = []
    for seed in seeds:
        scene = draw_scene(seed, sets=(HOLDOUT_SET,), objects=(2, 4), words=(0, 0))
        sample = make_sample(scene, "<OD>", np.random.default_rng(seed))
        assert sample is not None
        image = scene.image
        samples.append((LabeledImage(f"{seed}", f"{seed}", *image.size, (), lambda image=image: image), [sample]))
    return samples


def test_a_failure_keeps_the_old_calibration(engine: Engine, folder: Path) -> None:
    sha256 = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    old = Calibration(sha256=sha256, tasks={"<OD>": TemperatureScale(temperature=2.0)})
    write_calibration(folder, old)

    def fail_to_open() -> Image.Image:
        raise RuntimeError("the memory is full")

    ((image, samples),) = make_samples(range(1))
    with pytest.raises(RuntimeError, match="the memory is full"):
        calibrate_adapter(engine, "mine", folder, [(replace(image, open=fail_to_open), samples)])
    assert read_calibration(folder, sha256) == old
    assert calibrate_adapter(engine, "mine", folder, [(image, samples)]) == {}  # too few answers
    assert read_calibration(folder, sha256) is None


def test_answers_are_held_to_the_class_list_of_the_adapter(engine: Engine, folder: Path) -> None:
    write_class_list(folder, ["wren"])
    assert calibrate_adapter(engine, "mine", folder, make_samples(range(8))) == {}  # all answers are wrong
    write_class_list(folder, [])


def test_the_engine_applies_the_calibration_of_an_adapter(
    engine: Engine, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    results = calibrate_adapter(engine, "mine", folder, make_samples(range(12)))
    (loaded,) = [adapter for adapter in engine.list_adapters() if adapter.name == "mine"]
    assert loaded.calibration is not None
    assert read_calibration(folder, loaded.sha256) == loaded.calibration
    assert loaded.calibration.tasks == {"<OD>": results["<OD>"].scale}
    other = make_samples(range(500, 503))
    bare = tmp_path_factory.mktemp("bare")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(folder / name, bare)
    engine.load_adapter("bare", bare)
    before = evaluate_samples(engine, other, adapter="bare").tasks["<OD>"]
    after = evaluate_samples(engine, other, adapter="mine").tasks["<OD>"]
    expected = [score for score, _ in apply_scale(results["<OD>"].scale, before.scores)]
    assert [score for score, _ in after.scores] == pytest.approx(expected, abs=1e-3)
    assert after.corrections == before.corrections


def test_a_checkpoint_is_calibrated_again_on_raw_scores(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(engine.checkpoint.folder, folder)
    (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    with Engine.load(EngineConfig(str(folder), device="cpu")) as bare:
        before = evaluate_samples(bare, make_samples(range(500, 503))).tasks["<OD>"]
    write_calibration(
        folder, Calibration(sha256=engine.checkpoint.sha256, tasks={"<OD>": TemperatureScale(temperature=40.0)})
    )
    results = calibrate_checkpoint(folder, make_samples(range(12)))  # not on calibrated scores
    with Engine.load(EngineConfig(str(folder), device="cpu")) as calibrated:
        assert calibrated.checkpoint.calibration is not None
        assert calibrated.checkpoint.calibration.tasks == {"<OD>": results["<OD>"].scale}
        after = evaluate_samples(calibrated, make_samples(range(500, 503))).tasks["<OD>"]
    expected = [score for score, _ in apply_scale(results["<OD>"].scale, before.scores)]
    assert [score for score, _ in after.scores] == pytest.approx(expected, abs=1e-3)
    assert after.corrections == before.corrections


@pytest.mark.slow
def test_the_scores_of_unknown_emoji_are_calibrated(engine: Engine, folder: Path) -> None:
    """The scale is fitted on one half of the scenes and evaluated on the other, on raw scores.

    Those of the checkpoint alone would be calibrated already, by its own scale, and a second one makes them worse.
    """
    engine.load_adapter("bare", folder)  # before it has a calibration
    results = calibrate_adapter(engine, "mine", folder, make_samples(range(80)))
    other = evaluate_samples(engine, make_samples(range(500, 580)), adapter="bare").tasks["<OD>"].scores
    after = apply_scale(results["<OD>"].scale, other)
    errors = f"{compute_ece(other):.3f} before, {compute_ece(after):.3f} after"
    print(f"ECE of {len(other)} answers: {errors}; AUROC {compute_auroc(other):.3f}")
    assert compute_ece(after) < compute_ece(other)
    assert compute_auroc(after) == pytest.approx(compute_auroc(other))


def test_too_few_answers_delete_the_file(engine: Engine, folder: Path) -> None:
    (folder / CALIBRATION_FILE).write_text("{")
    assert calibrate_adapter(engine, "mine", folder, make_samples(range(1))) == {}
    assert not (folder / CALIBRATION_FILE).exists()
