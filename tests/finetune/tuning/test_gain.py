"""Whether a run has gained something: not if the best of many validations is only a little better by chance."""

import numpy as np
import pytest

from finetune.tuning.gain import measure_gain

IMAGES = 40
LABELS = [3.0] * IMAGES


def draw_errors(rate: float, seed: int) -> list[float]:
    """Errors of images with three labels each, of which a share is wrong."""
    return np.random.default_rng(seed).binomial(3, rate, IMAGES).astype(float).tolist()


def test_a_clear_gain_is_sure() -> None:
    errors = {0: draw_errors(0.4, 0), 50: draw_errors(0.38, 1), 100: draw_errors(0.1, 2)}
    gain = measure_gain(40.0, 10.0, errors, LABELS)
    assert gain.gained
    assert gain.value == 30.0
    assert gain.confidence is not None
    assert gain.confidence > 0.99
    assert gain.describe_confidence() == "more than 99 % sure"


def test_the_best_of_many_equal_validations_is_luck() -> None:
    lucky = 0
    for trial in range(10):
        start = 100 * trial
        errors = {step: draw_errors(0.3, start + step) for step in range(21)}
        totals = {step: sum(own) for step, own in errors.items()}
        best = min(totals[step] for step in totals if step)
        gain = measure_gain(totals[0] / 1.2, best / 1.2, errors, LABELS)
        lucky += gain.gained
    assert lucky <= 2  # one in ten is the level of the test; without it, most of them would count


def test_a_worse_metric_is_no_gain() -> None:
    errors = {0: draw_errors(0.2, 0), 50: draw_errors(0.4, 1)}
    gain = measure_gain(20.0, 40.0, errors, LABELS)
    assert (gain.gained, gain.value, gain.confidence) == (False, -20.0, 0.0)


def test_a_doubtful_gain_is_none_and_says_how_sure_it_is() -> None:
    errors = {0: [2.0, 1, 3, 0, 2, 1, 2, 3, 0, 1], 50: [2.0, 2, 2, 0, 1, 1, 2, 3, 1, 0]}
    gain = measure_gain(15.0, 14.0, errors, [1.0] * 10)
    assert not gain.gained
    assert gain.describe_doubt().startswith("that may be luck (")
    assert gain.describe_doubt().endswith(" % sure, 90 % are needed)")


def test_few_images_are_named() -> None:
    gain = measure_gain(100.0, 0.0, {0: [3.0, 2, 4], 50: [0.0, 0, 0]}, [3.0, 3, 3])
    assert gain.gained
    assert gain.describe_confidence() == "more than 99 % sure, but by only 3 images"


def test_a_run_of_an_older_version_has_no_confidence() -> None:
    gain = measure_gain(20.0, 10.0, {100: [1.0, 2]}, [3.0, 3])
    assert (gain.gained, gain.confidence) == (True, None)


@pytest.mark.parametrize("weights", [[], [3.0]])
def test_one_image_tells_nothing(weights: list[float]) -> None:
    errors = {0: [1.0] * len(weights), 1: [0.0] * len(weights)}
    assert measure_gain(1.0, 0.0, errors, weights).confidence is None
