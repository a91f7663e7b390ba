"""What to try after a run that gained nothing, derived from what happened in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance
from typing import Any

from finetune.tuning.class_facts import FEW_IMAGES, ClassFacts, list_new, list_rare
from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.gain import TuneGain, format_metric, measure_gain
from finetune.tuning.run_state import RunState

TRAINED_STAGES_FOR_NEW = 2
"""With more frozen stages than this, unseen art was learned less well (docs/measurements/tuning-trials.md)."""
_SHOWN_CLASSES = 5
_FEW_VIEWS = 5  # how often each image is seen in a very short run
_ENOUGH_IMAGES = 30  # in a holdout
_CLEAR, _CLEAR_OF_FEW = 0.02, 0.1  # relative differences of mean losses that count: of many lines, of few
_FLAT = 0.05  # the largest relative change of a loss that hardly changed
_WORSE = 1.05  # a metric above this share of the start's is worse


@dataclass(frozen=True, slots=True)
class _LossTrend:
    """Mean training losses: of the first quarter of the log, and of the last two; whether they differ clearly."""

    first: float
    third: float
    last: float
    is_falling: bool
    is_rising: bool
    is_flat: bool


def judge_run(
    config: TuneConfig,
    state: RunState,
    lines: Sequence[Mapping[str, Any]],
    classes: Iterable[ClassFacts],
    images: int,
) -> TuneGain | None:
    """Returns what a run has gained, with advice if that is nothing; None if it was not measured.

    `lines`: of the log; `images`: the number of training images.
    """
    if state.before is None or state.best is None or not state.best_step:
        return None
    gain = measure_gain(state.before, state.best, state.errors, state.weights)
    return gain if gain.gained else replace(gain, advice=tuple(advise(config, state, gain, lines, classes, images)))


def advise(
    config: TuneConfig,
    state: RunState,
    gain: TuneGain,
    lines: Sequence[Mapping[str, Any]],
    classes: Iterable[ClassFacts],
    images: int,
) -> list[str]:
    """Returns what to try, the most promising first."""
    facts = list(classes)
    if not state.before and config.metric == "corrections":
        return ["other images: the holdout needed no correction before; add images that the model gets wrong"]
    trend = _find_trend(config, lines)
    validations = [(int(line["step"]), float(line["validation"])) for line in lines if "validation" in line]
    trained = [value for step, value in validations if step]
    advice = [
        *_advise_stages(config, facts),
        *_advise_steps(config, state, trend, trained, images),
        *_advise_learning_rate(config, state, trend, trained),
        *_advise_images(facts, gain),
    ]
    if not advice:
        settled = f"the training loss has settled at {trend.last:.3g} and the holdout is not better: " if trend else ""
        advice.append(f"other images: {settled}the {images} training images show too little of what the holdout needs")
    return advice


def list_names(classes: Sequence[ClassFacts], counted: bool = False) -> str:
    """Returns names of classes for a sentence, the first ones if there are many. `counted`: with their images."""
    names = [f"{each.name} ({each.images})" if counted else each.name for each in classes[:_SHOWN_CLASSES]]
    more = len(classes) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def describe_frozen(config: TuneConfig, classes: Iterable[ClassFacts]) -> str:
    """Returns why classes that are new to the base are hardly learned by these settings; empty if they can be."""
    new = list_new(classes)
    if not new or config.cached_stages <= TRAINED_STAGES_FOR_NEW:
        return ""
    are = "is" if len(new) == 1 else "are"
    if config.method is Method.DECODER:
        return f"method is decoder, and {list_names(new)} {are} new to the base: lora or full trains the vision encoder"
    look = "it looks" if len(new) == 1 else "they look"
    return (
        f"frozen_stages is {config.frozen_stages}, and {list_names(new)} {are} new to the base: with 0 to "
        f"{TRAINED_STAGES_FOR_NEW} the vision encoder learns what {look} like"
    )


def _advise_stages(config: TuneConfig, facts: Sequence[ClassFacts]) -> list[str]:
    if reason := describe_frozen(config, facts):
        return [f"more stages: {reason}"]
    if config.method is not Method.DECODER and config.frozen_stages > TRAINED_STAGES_FOR_NEW:
        return [f"more stages: frozen_stages is {config.frozen_stages}; lower it to {TRAINED_STAGES_FOR_NEW} or 0"]
    return []


def _advise_steps(
    config: TuneConfig, state: RunState, trend: _LossTrend | None, trained: Sequence[float], images: int
) -> list[str]:
    own_images = config.batch_size * config.accumulation_steps * (1 - config.replay_share * config.can_replay)
    views = state.step * own_images / max(1, images)
    reasons = []
    if len(trained) > 1 and trained[-1] == min(trained) and trained[-1] < trained[-2]:
        reasons.append(
            f"the holdout was still improving at the end ({format_metric(trained[-2])} → {format_metric(trained[-1])})"
        )
    if trend and trend.is_falling:
        reasons.append(f"the training loss was still falling ({trend.third:.3g} → {trend.last:.3g})")
    if views < _FEW_VIEWS and not (trend and trend.is_rising):
        reasons.append(f"each image was seen {views:.1f} times")
    if not reasons:
        return []
    steps = max(2 * config.steps, 100)
    return [f"more steps: {' and '.join(reasons)}; set steps to {steps} in place of {config.steps}"]


def _advise_learning_rate(
    config: TuneConfig, state: RunState, trend: _LossTrend | None, trained: Sequence[float]
) -> list[str]:
    rate, lower, higher = config.learning_rate, config.learning_rate / 3, config.learning_rate * 3
    is_improving = len(trained) > 1 and trained[-1] < trained[-2]
    if trend and trend.is_rising:
        return [
            f"a lower learning rate: the training loss rose ({trend.first:.3g} → {trend.last:.3g}); set learning_rate "
            f"to {lower:.1g} in place of {rate:g}"
        ]
    is_worse = bool(trained and state.before and min(trained) > _WORSE * state.before)
    if trend and trend.is_flat and not trend.is_falling and not is_worse:
        return [
            f"a higher learning rate: the training loss hardly changed ({trend.first:.3g} → {trend.last:.3g}); set "
            f"learning_rate to {higher:.1g} in place of {rate:g}"
        ]
    if is_worse and not is_improving:
        return [
            f"a lower learning rate: every validation was worse than the start ({format_metric(state.before)} → "
            f"{format_metric(min(trained))} at best); set learning_rate to {lower:.1g} in place of {rate:g}"
        ]
    is_early = state.best_step <= state.step / 2
    if trend and is_early and len(trained) > 2 and trained[-1] > min(trained) and trend.last < trend.first:
        return [
            f"a lower learning rate: after step {state.best_step} the holdout got worse "
            f"({format_metric(min(trained))} → {format_metric(trained[-1])}) while the training loss fell, so the run "
            f"overfits its images; set learning_rate to {lower:.1g} in place of {rate:g}, or add images"
        ]
    return []


def _advise_images(facts: Sequence[ClassFacts], gain: TuneGain) -> list[str]:
    advice = []
    if rare := list_rare(facts):
        advice.append(f"more images of {list_names(rare, counted=True)}: fewer than {FEW_IMAGES} training images each")
    if gain.value > 0 and gain.units < _ENOUGH_IMAGES:
        advice.append(f"a larger holdout: {gain.units} images are too few to tell a small gain from luck")
    return advice


def _find_trend(config: TuneConfig, lines: Sequence[Mapping[str, Any]]) -> _LossTrend | None:
    """Returns how the training loss went; None for fewer than four lines with a loss."""
    losses = [
        config.text_weight * line["text_loss"] + config.location_weight * line["location_loss"]
        for line in lines
        if "text_loss" in line and "location_loss" in line
    ]
    if len(losses) < 4:
        return None
    size = len(losses) // 4
    first, third, last = losses[:size], losses[-2 * size : -size], losses[-size:]
    means = fmean(first), fmean(third), fmean(last)
    is_flat = abs(means[0] - means[2]) < _FLAT * means[0]
    return _LossTrend(*means, _differ(third, last), _differ(last, first), is_flat)


def _differ(higher: Sequence[float], lower: Sequence[float]) -> bool:
    """Returns whether one mean is clearly above the other: by more than a small share, and than the noise."""
    difference = fmean(higher) - fmean(lower)
    if min(len(higher), len(lower)) < 3:  # too few to measure the noise
        return difference > _CLEAR_OF_FEW * abs(fmean(lower))
    noise = (variance(higher) / len(higher) + variance(lower) / len(lower)) ** 0.5
    return difference > max(_CLEAR * abs(fmean(lower)), 2 * noise)
