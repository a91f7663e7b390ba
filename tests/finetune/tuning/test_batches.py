"""What each step sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune.tuning import replay
from finetune.tuning.batches import Lesson, Lessons
from finetune.tuning.config import TuneConfig
from finetune.tuning.validation import Judge, main_tasks
from labels.dataset import Dataset
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Box, Text
from prompts.tasks import find_task
from server.engine.checkpoints.loading import read_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine

LABELS = ("cat", "dog", "tree")


def lessons(base: str, examples: list[LabeledImage], **given: object) -> Lessons:
    config = TuneConfig(**{"base": base, "pictures": 3, "prompts": 2, "augment": 0.0, "replay": 0.0, **given})
    return Lessons(read_checkpoint(base), examples, LABELS, config, replay.scenes if config.replay else None)


def equal(one: Lesson, two: Lesson) -> bool:
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in Lesson.__slots__)


@pytest.mark.parametrize("given", [{}, {"augment": 1.0}, {"augment": 1.0, "frozen_stages": 4}, {"replay": 0.5}])
def test_a_step_is_the_same_again_and_no_other(
    base: str, examples: list[LabeledImage], given: dict[str, object]
) -> None:
    one, two = lessons(base, examples, **given), lessons(base, examples, **given)
    assert equal(one[7], two[7])
    assert not equal(one[7], one[8])
    assert not equal(one[7], lessons(base, examples, seed=1, **given)[7])


def test_each_picture_comes_once_an_epoch(base: str, examples: list[LabeledImage]) -> None:
    taught = lessons(base, examples, views=1, frozen_stages=4)
    epochs = [sorted(v for step in (2 * e, 2 * e + 1) for v in taught[step].views.tolist()) for e in range(3)]
    assert epochs == [list(range(6))] * 3
    assert taught[0].views.tolist() + taught[1].views.tolist() != taught[2].views.tolist() + taught[3].views.tolist()


@pytest.mark.parametrize("stages", [1, 4])
def test_kept_views_show_the_same_pixels(base: str, examples: list[LabeledImage], stages: int) -> None:
    taught = lessons(base, examples, augment=1.0, frozen_stages=stages, views=2, replay=0.3)
    shown: dict[int, torch.Tensor] = {}
    for step in range(12):
        lesson = taught[step]
        for view, pixels in zip(lesson.views.tolist(), lesson.pixels, strict=True):
            assert torch.equal(shown.setdefault(view, pixels), pixels)
    assert any(view < 0 for view in shown)
    assert 9 <= len({view for view in shown if view >= 0}) <= 12  # of six pictures, two views each


def test_unchanged_a_picture_has_one_view(base: str, examples: list[LabeledImage]) -> None:
    taught = lessons(base, examples, augment=0.0, frozen_stages=4, views=8)
    assert len({view for step in range(12) for view in taught[step].views.tolist()}) == 6


def test_the_share_that_is_replayed(base: str, examples: list[LabeledImage]) -> None:
    taught = lessons(base, examples, replay=0.5, pictures=1)
    shares = [bool(taught[step].replayed.any()) for step in range(60)]
    assert 0.3 < np.mean(shares) < 0.7
    assert not any(lessons(base, examples)[step].replayed.any() for step in range(10))


def test_only_the_tasks_that_are_asked_for(base: str, examples: list[LabeledImage]) -> None:
    taught = lessons(base, examples, tasks=("<OD>",), prompts=4)
    assert len(taught[0].owner) == 3  # one a picture


def asked(example: LabeledImage, *texts: str) -> LabeledImage:
    """The picture with nothing but questions of its own."""
    questions = tuple(Sample(find_task("<VQA>"), (Text(label=text),), text=text) for text in texts)
    return replace(example, annotations=(), complete=frozenset(), samples=questions)


def test_replayed_views_show_the_same_pixels(base: str, examples: list[LabeledImage]) -> None:
    config = TuneConfig(base=base, pictures=8, prompts=1, augment=0.0, replay=0.9, frozen_stages=4)
    source = replay.of(Dataset(tuple(examples[:5])))
    taught = Lessons(read_checkpoint(base), examples, LABELS, config, source)
    shown: dict[int, torch.Tensor] = {}
    for step in (0, 1, replay.POOL // 8, replay.POOL // 8 + 1):  # the pool, and once more its beginning
        lesson = taught[step]
        for view, pixels in zip(lesson.views.tolist(), lesson.pixels, strict=True):
            assert torch.equal(shown.setdefault(view, pixels), pixels)
    assert sum(view < 0 for view in shown) > 8


def test_each_of_many_questions_has_its_turn(base: str, examples: list[LabeledImage]) -> None:
    texts = [f"is it {word}" for word in ("cat", "dog", "tree", "red", "blue", "small", "big", "left")]
    taught = lessons(base, [asked(examples[0], *texts)], pictures=1)
    said = {tuple(row.tolist()) for step in range(30) for row in taught[step].labels}
    assert all(len(taught[step].owner) == 2 for step in range(30))
    assert len({tuple(v for v in row if v >= 0) for row in said}) == len(texts)


def test_what_is_longer_than_the_model_reads_is_not_asked(base: str, examples: list[LabeledImage]) -> None:
    taught = lessons(base, [asked(examples[0], "cat " * 2000)], pictures=1)
    lesson = taught[0]
    assert (lesson.prompts.shape, lesson.labels.shape, lesson.owner.tolist()) == ((0, 0), (0, 0), [])
    both = lessons(base, [asked(examples[0], "cat " * 2000, "cat")], pictures=1)[0]
    assert both.owner.tolist() == [0]
    judge = Judge([asked(examples[0], "cat " * 2000)], LABELS, ["<VQA>"])
    with Engine.load(EngineConfig(base)) as engine:
        assert [tally.labels for tally in judge.tallies(engine)] == [0]


def test_a_dataset_of_questions_is_judged_by_them(examples: list[LabeledImage]) -> None:
    assert main_tasks([asked(examples[0], "cat")], ()) == ["<VQA>"]
    assert main_tasks(examples, ()) == ["<OD>"]
    assert main_tasks(examples, ("<REGION_PROPOSAL>", "<REGION_TO_CATEGORY>")) == [
        "<REGION_PROPOSAL>", "<REGION_TO_CATEGORY>",
    ]  # fmt: skip


def test_the_tokens_of_labels_are_counted(base: str, examples: list[LabeledImage]) -> None:
    boxes = [Box(label=label, box=(1, 1, 9, 9)) for label in ("cat", "cat", "dog")]
    taught = lessons(base, [replace(examples[0], annotations=(*boxes, Text(label="a cat and a tree")))])
    encode = read_checkpoint(base).tokenizer.backend.encode
    cat, dog = (encode(label, add_special_tokens=False).ids for label in ("cat", "dog"))
    counts = taught.label_tokens()
    assert all(counts[token] == 2 + (token in dog) for token in cat)
    assert counts.keys() == {*cat, *dog}
