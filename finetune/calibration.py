"""Calibration: scores of an adapter or checkpoint are mapped to the probability that the answer is correct.

The map is fitted on holdout labels. A score is then the probability that nobody needs to correct the annotation, as
`review_below` assumes. It is saved beside the weights, and the server applies it (`server.engine.calibration`).
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize  # type: ignore[import-untyped]

from finetune.evaluation.reliability import Scores, compute_ece
from finetune.evaluation.report import EvaluationReport, evaluate_samples
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from server.engine.adapters.class_list import CLASS_LIST_FILE
from server.engine.adapters.lora import CONFIG_FILE, WEIGHT_FILES
from server.engine.calibration import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationError,
    IsotonicScale,
    TemperatureScale,
    read_calibration,
    write_calibration,
)
from server.engine.class_lists import find_adapter_class_list
from server.engine.config import EngineConfig
from server.engine.engine import Engine

MIN_ANSWERS = 20  # fewer are not enough for a fit
MIN_ISOTONIC_ANSWERS = 1000  # below it isotonic regression overfits (Niculescu-Mizil and Caruana 2005, section 4)


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """The scale of a task, and its scores before and after.

    The scores are those that the scale was fitted on, so that the error after it is optimistic.
    """

    scale: TemperatureScale | IsotonicScale
    before: Scores
    after: Scores

    @property
    def ece(self) -> tuple[float, float]:
        """The expected calibration error before and after."""
        return compute_ece(self.before), compute_ece(self.after)


def calibrate_adapter(
    engine: Engine, name: str, folder: Path, samples: Sequence[tuple[LabeledImage, Sequence[Sample]]]
) -> dict[str, CalibrationResult]:
    """Calibrates the adapter in `folder` on samples that it was not trained on; returns the results by task token.

    Its answers are held to its class list, as when it serves. The scales are saved beside its weights, and it stays
    loaded as `name` with them. Tasks with too few answers, or with only correct or only wrong ones, are left out.
    Raises AdapterError if the adapter cannot be loaded, and OSError if nothing can be written.
    """
    with tempfile.TemporaryDirectory() as bare:  # without the old calibration, so that raw scores are fitted
        for file in (CONFIG_FILE, CLASS_LIST_FILE, *WEIGHT_FILES):
            if (folder / file).is_file():
                (Path(bare) / file).symlink_to((folder / file).resolve())
        loaded = engine.load_adapter(name, Path(bare))
    class_list = find_adapter_class_list(engine, [name])
    results = _fit_tasks(evaluate_samples(engine, samples, adapter=name, class_list=class_list))
    if results:
        tasks = {token: result.scale for token, result in results.items()}
        write_calibration(folder, Calibration(sha256=loaded.sha256, tasks=tasks))
        engine.load_adapter(name, folder)
    else:
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    return results


def calibrate_checkpoint(
    folder: Path, samples: Sequence[tuple[LabeledImage, Sequence[Sample]]]
) -> dict[str, CalibrationResult]:
    """Calibrates the checkpoint in `folder`, without an adapter; returns the results by task token.

    Scales of tasks without samples, or with too few answers, are kept. Raises CheckpointError if the checkpoint cannot
    be loaded, and OSError if nothing can be written.
    """
    with tempfile.TemporaryDirectory() as bare:
        for file in folder.iterdir():
            if file.name != CALIBRATION_FILE:
                (Path(bare) / file.name).symlink_to(file.resolve())
        with Engine.load(EngineConfig(bare)) as engine:
            report, sha256 = evaluate_samples(engine, samples), engine.checkpoint.sha256
    try:
        old = read_calibration(folder, sha256)
    except CalibrationError:
        old = None
    results = _fit_tasks(report)
    if results:
        tasks = (old.tasks if old else {}) | {token: result.scale for token, result in results.items()}
        write_calibration(folder, Calibration(sha256=sha256, tasks=tasks))
    return results


def _fit_tasks(report: EvaluationReport) -> dict[str, CalibrationResult]:
    fitted = {token: (fit_scale(task.scores), task.scores) for token, task in report.tasks.items()}
    return {
        token: CalibrationResult(scale, scores, apply_scale(scale, scores))
        for token, (scale, scores) in fitted.items()
        if scale
    }


def apply_scale(scale: TemperatureScale | IsotonicScale, scores: Scores) -> list[tuple[float, bool]]:
    """Maps scores by a scale."""
    return [(scale(score), correct) for score, correct in scores]


def fit_scale(scores: Scores) -> TemperatureScale | IsotonicScale | None:
    """Fits a temperature with a shift; with 1000 or more answers an isotonic curve.

    Returns None for fewer than 20 answers, and if all are correct or all are wrong.
    """
    correct = sum(ok for _, ok in scores)
    if len(scores) < MIN_ANSWERS or correct in (0, len(scores)):
        return None
    return fit_temperature(scores) if len(scores) < MIN_ISOTONIC_ANSWERS else fit_isotonic(scores)


def fit_temperature(scores: Scores) -> TemperatureScale:
    """Fits the temperature and shift with the smallest log loss.

    The targets are slightly inside 0 and 1, so that perfectly separated answers do not lead to a step function (Platt
    1999, section 2.2). Raises ValueError if there are no scores.
    """
    if not scores:
        raise ValueError("a temperature needs scores")
    values = np.array([score for score, _ in scores])
    correct = np.array([ok for _, ok in scores])
    logits = np.log(values) - np.log1p(-values)
    targets = np.where(correct, (correct.sum() + 1) / (correct.sum() + 2), 1 / ((~correct).sum() + 2))

    def loss(parameters: np.ndarray) -> float:
        scaled = np.exp(parameters[0]) * logits + parameters[1]
        return float((np.logaddexp(0, scaled) - targets * scaled).mean())

    # A slope of e^±4 is nearly constant or nearly a step; larger values only diverge.
    slope, shift = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-4, 4), (-20, 20)]).x
    return TemperatureScale(temperature=math.exp(-slope), shift=float(shift))


def fit_isotonic(scores: Scores) -> IsotonicScale:
    """Fits the increasing curve with the smallest squared error.

    Pool adjacent violators (Ayer et al. 1955). Each pool is a point at the mean of its scores, with straight lines
    between them, so that the order of scores is kept (Oron and Flournoy 2017). A pool that is all correct or all wrong
    gets the value that one more answer of the other kind would give. Raises ValueError if there are no scores.
    """
    if not scores:
        raise ValueError("an isotonic curve needs scores")
    pools: list[tuple[float, float, int]] = []  # sum of scores, number of correct answers, number of answers
    for score, ok in sorted(scores, key=lambda pair: (pair[0], not pair[1])):  # correct first: equal scores are pooled
        pool = (score, float(ok), 1)
        while pools and pools[-1][1] * pool[2] >= pool[1] * pools[-1][2]:
            last = pools.pop()
            pool = (last[0] + pool[0], last[1] + pool[1], last[2] + pool[2])
        pools.append(pool)
    least = 1 / (len(scores) + 2)
    xs = [total / count for total, _, count in pools]
    ys = [min(max(correct / count, least), 1 - least) for _, correct, count in pools]
    kept = [i for i in range(len(xs)) if i == 0 or (xs[i] > xs[i - 1] and ys[i] > ys[i - 1])]
    return IsotonicScale(scores=tuple(xs[i] for i in kept), calibrated_scores=tuple(ys[i] for i in kept))
