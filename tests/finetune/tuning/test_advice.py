"""What to try after a run without a gain follows from what happened in it."""

from typing import Any

import pytest

from finetune.tuning.advice import advise, describe_frozen, judge_run
from finetune.tuning.class_facts import ClassFacts
from finetune.tuning.config import TuneConfig
from finetune.tuning.gain import TuneGain
from finetune.tuning.run_state import RunState

KNOWN = ClassFacts("cat", 40, 60, known=True)
NEW = ClassFacts("cactus", 40, 44, known=False)
RARE = ClassFacts("octopus", 4, 4, known=False)


def make_lines(losses: list[float], validations: dict[int, float]) -> list[dict[str, Any]]:
    """A log with a line every ten steps."""
    steps = sorted({10 * (i + 1) for i in range(len(losses))} | validations.keys())
    return [
        {
            "step": step,
            **({"text_loss": losses[step // 10 - 1], "location_loss": 0.0} if step else {}),
            **({"validation": validations[step]} if step in validations else {}),
        }
        for step in steps
    ]


def find_advice(
    losses: list[float], validations: dict[int, float], *classes: ClassFacts, images: int = 20, **settings: Any
) -> list[str]:
    config = TuneConfig(steps=10 * len(losses), **settings)
    trained = {step: value for step, value in validations.items() if step}
    best = min(trained, key=lambda step: trained[step])
    state = RunState(step=config.steps, before=validations[0], best=trained[best], best_step=best)
    gain = TuneGain(validations[0] - trained[best], 0.4, gained=False, units=40)
    return advise(config, state, gain, make_lines(losses, validations), classes or (KNOWN,), images)


FLAT = [2.0, 2.01, 1.99, 2.0] * 5
SETTLED = [4.0, 3.5, 3.0, 2.5, 2.0, 1.6, 1.3, 1.1] + [1.0, 1.01, 0.99, 1.0] * 3
FALLING = [5.0 - 0.2 * i for i in range(20)]
RISING = [2.0 + 0.2 * i for i in range(20)]


def test_frozen_stages_are_named_where_classes_are_new() -> None:
    advice = find_advice(SETTLED, {0: 20, 100: 22, 200: 23}, KNOWN, NEW, frozen_stages=4)
    assert advice[0] == (
        "more stages: frozen_stages is 4, and cactus is new to the base: with 0 to 2 the vision encoder learns what it "
        "looks like"
    )
    assert "more stages" not in "".join(find_advice(SETTLED, {0: 20, 100: 22, 200: 23}, KNOWN, NEW, frozen_stages=2))


@pytest.mark.parametrize(
    ("settings", "classes", "reason"),
    [
        ({"frozen_stages": 4}, [KNOWN], ""),
        ({}, [KNOWN, NEW], ""),
        ({"frozen_stages": 3}, [NEW, RARE], "cactus, octopus are new"),
        ({"method": "decoder"}, [NEW], "lora or full trains the vision encoder"),
    ],
)
def test_the_start_warns_of_frozen_stages_only_for_new_classes(
    settings: dict[str, Any], classes: list[ClassFacts], reason: str
) -> None:
    described = describe_frozen(TuneConfig(**settings), classes)
    assert bool(described) is bool(reason)
    assert reason in described


def test_a_loss_that_still_falls_asks_for_more_steps() -> None:
    (advice,) = find_advice(FALLING, {0: 20, 100: 25, 200: 21})
    assert advice == (
        "more steps: the holdout was still improving at the end (25 → 21) and the training loss was still falling "
        "(2.6 → 1.6); set steps to 400 in place of 200"
    )


def test_a_short_run_is_named_by_how_often_it_saw_each_image() -> None:
    advice = find_advice([2.0], {0: 20, 10: 20}, images=100, replay_share=0.0)
    assert advice == ["more steps: each image was seen 0.8 times; set steps to 100 in place of 10"]


def test_a_loss_that_rises_asks_for_a_lower_rate() -> None:
    (advice,) = find_advice(RISING, {0: 20, 100: 40, 200: 60}, learning_rate=0.03)
    assert advice.startswith("a lower learning rate: the training loss rose (2.4 → 5.4); set learning_rate to 0.01 ")


def test_a_flat_loss_asks_for_a_higher_rate() -> None:
    (advice,) = find_advice(FLAT, {0: 20, 100: 20, 200: 20})
    assert advice.startswith("a higher learning rate: the training loss hardly changed (2 → 2)")


def test_validations_that_are_all_worse_ask_for_a_lower_rate() -> None:
    (advice,) = find_advice(SETTLED, {0: 20, 100: 40, 200: 41})
    assert "every validation was worse than the start (20 → 40 at best)" in advice


def test_a_holdout_that_gets_worse_while_the_loss_falls_is_overfitting() -> None:
    (advice,) = find_advice(SETTLED, {0: 20, 50: 20, 100: 23, 150: 24, 200: 26})
    assert "after step 50 the holdout got worse (20 → 26) while the training loss fell" in advice


def test_classes_with_few_images_are_named_new_ones_first() -> None:
    others = [ClassFacts(f"c{i}", i, i, known=True) for i in range(8)]
    (advice,) = find_advice(SETTLED, {0: 20, 100: 20, 200: 20}, KNOWN, *others, RARE)
    assert advice == (
        "more images of octopus (4), c0 (0), c1 (1), c2 (2), c3 (3) and 4 more: fewer than 10 training images each"
    )


def test_without_another_fact_the_images_are_at_fault() -> None:
    (advice,) = find_advice(SETTLED, {0: 20, 100: 20, 200: 20})
    assert advice.startswith("other images: the training loss has settled at 1 and the holdout is not better")


def test_a_holdout_without_errors_says_so() -> None:
    (advice,) = find_advice(SETTLED, {0: 0, 100: 0, 200: 0}, NEW, frozen_stages=4)
    assert advice.startswith("other images: the holdout needed no correction before")


def test_a_run_that_was_not_validated_is_not_judged() -> None:
    assert judge_run(TuneConfig(), RunState(step=5), [], [], 3) is None
