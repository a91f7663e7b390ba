"""Whether a run has gained anything on its holdout, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.evaluation.bootstrap import compute_luck

SURE = 0.9
"""How sure a gain must be to count. Runs judge by few images; a backtest on more of them asks for 97.5 %."""
FEW_HOLDOUT_IMAGES = 10
"""On fewer images, the bootstrap draws too few different samples for a meaningful probability."""


@dataclass(frozen=True, slots=True)
class TuneGain:
    """What a run gained on the holdout.

    `value`: by how much the metric of the best step is lower than that of the start; `confidence`: how sure it is that
    this is no luck, from 0 to 1; None for a run of an older version; `gained`: whether it counts as a gain; `units`:
    how many images, or batches of them, were compared; `advice`: what to try if it does not.
    """

    value: float
    confidence: float | None
    gained: bool
    units: int
    advice: tuple[str, ...] = ()

    def describe_confidence(self) -> str:
        """Returns how sure it is that this is no luck, in words."""
        if self.confidence is None:
            return "not known how sure"
        percent = "more than 99 % sure" if self.confidence > 0.99 else f"{100 * self.confidence:.0f} % sure"
        return f"{percent}, but by only {self.units} images" if self.units < FEW_HOLDOUT_IMAGES else percent

    def describe_doubt(self) -> str:
        """Returns why a better metric is no gain."""
        return f"that may be luck ({self.describe_confidence()}, {100 * SURE:.0f} % are needed)"


def format_metric(value: float | None) -> str:
    """Returns a metric with three digits, such as 24.1 or 3,480. None: NaN, which JSON does not have."""
    if value is None:
        return "NaN"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def measure_gain(
    before: float, best: float, errors: Mapping[int, Sequence[float]], weights: Sequence[float]
) -> TuneGain:
    """Compares the best step with the start, on the same holdout images.

    The best of many validations is a little better by chance, so that the reality check takes all of them into account.

    Args:
        errors: The errors of each image, by the step of the validation; those of the start have the step 0.
        weights: The labels of each image.
    """
    value = before - best
    candidates = [own for step, own in errors.items() if step]
    if 0 not in errors or not candidates or len(weights) < 2 or not sum(weights):
        return TuneGain(value, None, value > 0, len(weights))
    if not value > 0:  # a loss can be NaN
        return TuneGain(value, 0.0, gained=False, units=len(weights))
    confidence = 1 - compute_luck(errors[0], candidates, weights)
    return TuneGain(value, confidence, confidence >= SURE, len(weights))
