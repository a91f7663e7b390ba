"""What each step sees."""

import numpy as np
import pytest
import torch

from finetune.datasets.example import Example
from finetune.tuning import replay
from finetune.tuning.config import TuneConfig
from finetune.tuning.lessons import Lesson, Lessons
from server.engine import checkpoint

LABELS = ("cat", "dog", "tree")


def lessons(base: str, examples: list[Example], **given: object) -> Lessons:
    config = TuneConfig(**{"base": base, "pictures": 3, "prompts": 2, "augment": 0.0, "replay": 0.0, **given})
    return Lessons(checkpoint.read(base), examples, LABELS, config, replay.scenes if config.replay else None)


def equal(one: Lesson, two: Lesson) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in Lesson.__slots__)


@pytest.mark.parametrize("given", [{}, {"augment": 1.0}, {"augment": 1.0, "frozen_stages": 4}, {"replay": 0.5}])
def test_a_step_is_the_same_again_and_no_other(base: str, examples: list[Example], given: dict[str, object]) -> None:
    one, two = lessons(base, examples, **given), lessons(base, examples, **given)
    assert equal(one[7], two[7])
    assert not equal(one[7], one[8])
    assert not equal(one[7], lessons(base, examples, seed=1, **given)[7])


def test_each_picture_comes_once_an_epoch(base: str, examples: list[Example]) -> None:
    taught = lessons(base, examples, views=1, frozen_stages=4)
    epochs = [sorted(v for step in (2 * e, 2 * e + 1) for v in taught[step].views.tolist()) for e in range(3)]
    assert epochs == [list(range(6))] * 3
    assert taught[0].views.tolist() + taught[1].views.tolist() != taught[2].views.tolist() + taught[3].views.tolist()


def test_kept_views_show_the_same_pixels(base: str, examples: list[Example]) -> None:
    taught = lessons(base, examples, augment=1.0, frozen_stages=4, views=2, replay=0.3)
    shown: dict[int, torch.Tensor] = {}
    for step in range(12):
        lesson = taught[step]
        for view, pixels in zip(lesson.views.tolist(), lesson.pixels, strict=True):
            assert torch.equal(shown.setdefault(view, pixels), pixels)
    assert any(view < 0 for view in shown)
    assert 9 <= len({view for view in shown if view >= 0}) <= 12  # of six pictures, two views each


def test_the_share_that_is_replayed(base: str, examples: list[Example]) -> None:
    taught = lessons(base, examples, replay=0.5, pictures=1)
    shares = [bool(taught[step].replayed.any()) for step in range(60)]
    assert 0.3 < np.mean(shares) < 0.7
    assert not any(lessons(base, examples)[step].replayed.any() for step in range(10))


def test_only_the_tasks_that_are_asked_for(base: str, examples: list[Example]) -> None:
    taught = lessons(base, examples, tasks=("<OD>",), prompts=4)
    assert len(taught[0].owner) == 3  # one a picture
