"""Calibration: maps scores to the fraction of answers that are correct. Fitted by `finetune.calibration`.

A scale is increasing and maps 0 … 1 to 0 … 1, so the order of answers to a task does not change. A calibration has one
scale per task. It is stored next to the weights of a checkpoint or an adapter, and is valid for those weights only.
"""

import bisect
import json
import math
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from prompts.annotations import Annotation, clamp_score
from prompts.tasks import Task

CALIBRATION_FILE = "calibration.json"
_MAX_FILE_BYTES = 16 << 20  # a curve with a hundred thousand points for each task

Probability = Annotated[float, Field(gt=0, lt=1)]


class CalibrationError(ValueError):
    """A calibration cannot be used. The message says how to fix it."""


class StaleCalibrationError(CalibrationError):
    """The calibration was fitted for other weights."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TemperatureScale(_FrozenModel):
    """σ(logit(score) / `temperature` + `shift`): temperature scaling (Guo et al. 2017) with Platt's shift (1999)."""

    kind: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)
    shift: float = 0.0

    def __call__(self, score: float) -> float:
        """Returns the calibrated score."""
        logit = math.log(score) - math.log1p(-score)
        return clamp_score(1 / (1 + math.exp(-max(-40.0, min(logit / self.temperature + self.shift, 40.0)))))


class IsotonicScale(_FrozenModel):
    """Piecewise linear through (0, 0), the points (`scores`, `calibrated_scores`) and (1, 1)."""

    kind: Literal["isotonic"] = "isotonic"
    scores: tuple[Probability, ...] = Field(min_length=1)
    calibrated_scores: tuple[Probability, ...]

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        increasing = all(a < b for values in (self.scores, self.calibrated_scores) for a, b in pairwise(values))
        if len(self.scores) != len(self.calibrated_scores) or not increasing:
            raise ValueError("scores and calibrated_scores must be increasing and have the same length")
        return self

    def __call__(self, score: float) -> float:
        """Returns the calibrated score."""
        xs, ys = (0.0, *self.scores, 1.0), (0.0, *self.calibrated_scores, 1.0)
        i = bisect.bisect_right(xs, score, 1, len(xs) - 1)
        fraction = (score - xs[i - 1]) / (xs[i] - xs[i - 1])
        return clamp_score(ys[i - 1] + fraction * (ys[i] - ys[i - 1]))


Scale = Annotated[TemperatureScale | IsotonicScale, Field(discriminator="kind")]


class Calibration(_FrozenModel):
    """Scales by task token. `sha256` is the hash of the weights that they belong to.

    Older files, for adapters only, name the hash `adapter_sha256`.
    """

    sha256: str = Field(validation_alias=AliasChoices("sha256", "adapter_sha256"))
    tasks: dict[str, Scale]

    def get_scale(self, task: Task) -> TemperatureScale | IsotonicScale | None:
        """Returns the scale of a task, or None if its scores are not calibrated."""
        return self.tasks.get(task.token)


def read_calibration(folder: Path, sha256: str) -> Calibration | None:
    """Reads the calibration in a folder of weights with the hash `sha256`. Returns None if there is no file.

    Raises CalibrationError when the file is broken, and StaleCalibrationError when it belongs to other weights.
    """
    path = folder / CALIBRATION_FILE
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise CalibrationError(
                f"its {CALIBRATION_FILE} has more than {_MAX_FILE_BYTES:,} bytes; calibrate it again, or remove it"
            )
        calibration = Calibration.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CalibrationError(
            f"its {CALIBRATION_FILE} cannot be used: {reason}; calibrate it again, or remove the file"
        ) from error
    if calibration.sha256 != sha256:
        raise StaleCalibrationError(
            f"its {CALIBRATION_FILE} belongs to the weights {calibration.sha256}, and these are {sha256}; calibrate it "
            "again, or remove the file"
        )
    return calibration


def write_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes the calibration into a folder of weights, atomically. Raises OSError."""
    text = json.dumps(calibration.model_dump(), indent=2)
    temporary = folder / f".{CALIBRATION_FILE}"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / CALIBRATION_FILE)


def apply_scale(annotations: Iterable[Annotation], scale: TemperatureScale | IsotonicScale | None) -> list[Annotation]:
    """Returns the annotations with calibrated scores. Without a scale, scores stay as they are."""
    if scale is None:
        return list(annotations)
    return [a if a.score is None else a.model_copy(update={"score": scale(a.score)}) for a in annotations]
