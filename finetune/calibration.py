"""Scores made to be as high as the answers are often right, of an adapter or of a whole checkpoint.

On held-out labels, whose answers a person has judged: a score then says how likely nobody needs to touch the label,
which is what `review_below` wants to know. What is fitted is kept beside the weights, and the server applies it
(`server.engine.calibration`). `python -m finetune.calibration CHECKPOINT [DATASET]` does it for a checkpoint.
"""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from scipy.optimize import minimize  # type: ignore[import-untyped]

from finetune.evaluation.reliability import Scores, ece
from finetune.evaluation.report import Report, examine, questions
from labels.dataset import DatasetError
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from labels.sample import Sample
from seedling.scenes.labeled_images import make_labeled_samples
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
from server.engine.checkpoints.errors import CheckpointError
from server.engine.config import EngineConfig
from server.engine.engine import Engine

SEEDS = 500_000  # of the scenes that a calibration is fitted on: no training and no report draws them
ENOUGH = 20  # answers; fewer say nothing
MANY = 1000  # answers from which isotonic regression does not overfit (Niculescu-Mizil and Caruana 2005, section 4)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A task's scale, and its scores before and after: the expected calibration error is of the labels it was fitted
    on, so that after is what to hope for, not a test."""

    scale: TemperatureScale | IsotonicScale
    before: Scores
    after: Scores

    @property
    def ece(self) -> tuple[float, float]:
        """Before, after."""
        return ece(self.before), ece(self.after)


def calibrate(
    engine: Engine, name: str, folder: Path, questions: Sequence[tuple[LabeledImage, Sequence[Sample]]]
) -> dict[str, Calibrated]:
    """Asks the adapter of `folder` questions whose answers it has not been taught, keeps the scales beside its weights,
    and leaves it loaded under `name` with them. By task token; without those whose answers are too few or all alike.

    Raises AdapterError where the adapter cannot be used, and OSError where nothing can be written.
    """
    with tempfile.TemporaryDirectory() as bare:  # without an old calibration, which this one would be fitted on top of
        for own in (CONFIG_FILE, *WEIGHT_FILES):
            if (folder / own).is_file():
                (Path(bare) / own).symlink_to((folder / own).resolve())
        loaded = engine.load_adapter(name, Path(bare))
    found = _fitted(examine(engine, questions, adapter=name))
    if found:
        write_calibration(
            folder, Calibration(sha256=loaded.sha256, tasks={token: one.scale for token, one in found.items()})
        )
        engine.load_adapter(name, folder)
    else:
        (folder / CALIBRATION_FILE).unlink(missing_ok=True)
    return found


def calibrate_checkpoint(
    folder: Path, questions: Sequence[tuple[LabeledImage, Sequence[Sample]]]
) -> dict[str, Calibrated]:
    """The same of the checkpoint in `folder`, which answers without an adapter; scales of tasks that are not asked, or
    answered too seldom, stay. Raises CheckpointError where it cannot be loaded, and OSError where nothing can be
    written."""
    with tempfile.TemporaryDirectory() as bare:
        for own in folder.iterdir():
            if own.name != CALIBRATION_FILE:
                (Path(bare) / own.name).symlink_to(own.resolve())
        with Engine.load(EngineConfig(bare)) as engine:
            report, sha256 = examine(engine, questions), engine.checkpoint.sha256
    try:
        old = read_calibration(folder, sha256)
    except CalibrationError:
        old = None
    found = _fitted(report)
    if found:
        tasks = (old.tasks if old else {}) | {token: one.scale for token, one in found.items()}
        write_calibration(folder, Calibration(sha256=sha256, tasks=tasks))
    return found


def _fitted(report: Report) -> dict[str, Calibrated]:
    """The scales that suit the report's answers, by task token."""
    found = {token: (fit(marks.scores), marks.scores) for token, marks in report.tasks.items()}
    return {token: Calibrated(scale, scores, apply(scale, scores)) for token, (scale, scores) in found.items() if scale}


def apply(scale: TemperatureScale | IsotonicScale, scores: Scores) -> list[tuple[float, bool]]:
    """The scores on a scale."""
    return [(scale(score), right) for score, right in scores]


def fit(scores: Scores) -> TemperatureScale | IsotonicScale | None:
    """The scale that suits these answers: a temperature with a shift, of many answers any rising curve. None of fewer
    than 20, and where all are right or all wrong."""
    right = sum(ok for _, ok in scores)
    if len(scores) < ENOUGH or right in (0, len(scores)):
        return None
    return temperature(scores) if len(scores) < MANY else isotonic(scores)


def temperature(scores: Scores) -> TemperatureScale:
    """The temperature and shift of the least log loss, against targets a little short of 0 and 1, so that answers that
    a score tells apart without a fault make no step of it (Platt 1999, section 2.2). Raises ValueError of no scores."""
    if not scores:
        raise ValueError("nothing can be fitted to no scores")
    values = np.array([score for score, _ in scores])
    right = np.array([ok for _, ok in scores])
    logits = np.log(values) - np.log1p(-values)
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))

    def loss(unknown: np.ndarray) -> float:
        said = np.exp(unknown[0]) * logits + unknown[1]
        return float((np.logaddexp(0, said) - targets * said).mean())

    # A slope of e^±4 is a score that says nothing, or everything: further is only a number that runs away.
    slope, shift = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-4, 4), (-20, 20)]).x
    return TemperatureScale(temperature=math.exp(-slope), shift=float(shift))


def isotonic(scores: Scores) -> IsotonicScale:
    """The rising curve of the least squared error, by pooling adjacent violators (Ayer et al. 1955); each pool at the
    mean of its scores, with straight lines between, so that the order stays whole (Oron and Flournoy 2017). A pool that
    is all right or all wrong is as sure as one answer more of the other kind allows. Raises ValueError of no scores."""
    if not scores:
        raise ValueError("nothing can be fitted to no scores")
    pools: list[tuple[float, float, int]] = []  # sums of the scores and of the right ones, and how many
    for score, ok in sorted(scores, key=lambda pair: (pair[0], not pair[1])):  # so that equal scores are pooled
        pool = (score, float(ok), 1)
        while pools and pools[-1][1] * pool[2] >= pool[1] * pools[-1][2]:
            last = pools.pop()
            pool = (last[0] + pool[0], last[1] + pool[1], last[2] + pool[2])
        pools.append(pool)
    least = 1 / (len(scores) + 2)
    xs = [total / count for total, _, count in pools]
    ys = [min(max(right / count, least), 1 - least) for _, right, count in pools]
    kept = [i for i in range(len(xs)) if i == 0 or (xs[i] > xs[i - 1] and ys[i] > ys[i - 1])]
    return IsotonicScale(scores=tuple(xs[i] for i in kept), shares=tuple(ys[i] for i in kept))


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint; its calibration.json is written anew.")],
    dataset: Annotated[
        Path | None, typer.Argument(help="Held-out labels, in any form that `florist evaluate` takes.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Without a dataset: how many drawn scenes.")] = 400,
) -> None:
    """Calibrates a checkpoint's own scores on labels that it was not taught."""
    if not checkpoint.is_dir():
        raise typer.BadParameter(f"{checkpoint} is no folder", param_hint="CHECKPOINT")
    try:
        if dataset:
            opened = open_dataset(dataset)
            asked = questions(opened.evaluation_images, labels=opened.classes)
        else:
            asked = make_labeled_samples(range(SEEDS, SEEDS + scenes))
        found = calibrate_checkpoint(checkpoint, asked)
    except (DatasetError, CheckpointError, OSError) as error:
        raise SystemExit(str(error)) from error
    for token, one in found.items():
        before, after = one.ece
        print(f"{token}: error of {len(one.before)} scores {before:.3f} before, {after:.3f} after")
    if not found:
        raise SystemExit(f"no task has {ENOUGH} answers, right ones and wrong ones among them: nothing was changed")


if __name__ == "__main__":
    typer.run(main)
