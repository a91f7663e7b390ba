"""The training batches of a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finetune.tuning.batches import TrainingBatch, TrainingBatches
from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import POOL_SIZE, DatasetReplay
from finetune.tuning.validation import ValidationSet, select_main_tasks
from labels.dataset import Dataset
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Box, Text
from prompts.tasks import find_task
from seedling.replay import SceneReplay
from server.engine.checkpoints.loading import read_checkpoint
from server.engine.config import EngineConfig
from server.engine.engine import Engine

CLASSES = ("cat", "dog", "tree")


def make_batches(base: str, images: list[LabeledImage], **settings: object) -> TrainingBatches:
    small = {"batch_size": 3, "prompts_per_image": 2, "augmentation": 0.0, "replay_share": 0.0}
    config = TuneConfig(**{"base": base, **small, **settings})
    return TrainingBatches(
        read_checkpoint(base), images, CLASSES, config, SceneReplay() if config.replay_share else None
    )


def is_equal(one: TrainingBatch, two: TrainingBatch) -> bool:
    names = [name for name in TrainingBatch.__slots__ if name != "left_out"]
    return one.left_out == two.left_out and all(torch.equal(getattr(one, n), getattr(two, n)) for n in names)


@pytest.mark.parametrize(
    "settings", [{}, {"augmentation": 1.0}, {"augmentation": 1.0, "frozen_stages": 4}, {"replay_share": 0.5}]
)
def test_a_batch_depends_only_on_seed_and_number(
    base: str, images: list[LabeledImage], settings: dict[str, object]
) -> None:
    one, two = make_batches(base, images, **settings), make_batches(base, images, **settings)
    assert is_equal(one[7], two[7])
    assert not is_equal(one[7], one[8])
    assert not is_equal(one[7], make_batches(base, images, seed=1, **settings)[7])


def test_each_image_comes_once_in_an_epoch(base: str, images: list[LabeledImage]) -> None:
    batches = make_batches(base, images, views_per_image=1, frozen_stages=4)
    epochs = [sorted(v for step in (2 * e, 2 * e + 1) for v in batches[step].views.tolist()) for e in range(3)]
    assert epochs == [list(range(6))] * 3
    assert (
        batches[0].views.tolist() + batches[1].views.tolist() != batches[2].views.tolist() + batches[3].views.tolist()
    )


@pytest.mark.parametrize("stages", [1, 4])
def test_cached_views_have_the_same_pixels(base: str, images: list[LabeledImage], stages: int) -> None:
    batches = make_batches(base, images, augmentation=1.0, frozen_stages=stages, views_per_image=2, replay_share=0.3)
    shown: dict[int, torch.Tensor] = {}
    for step in range(12):
        batch = batches[step]
        for view, pixels in zip(batch.views.tolist(), batch.pixels, strict=True):
            assert torch.equal(shown.setdefault(view, pixels), pixels)
    assert any(view < 0 for view in shown)
    assert 9 <= len({view for view in shown if view >= 0}) <= 12  # two views of each of six images


def test_an_image_without_augmentation_has_one_view(base: str, images: list[LabeledImage]) -> None:
    batches = make_batches(base, images, augmentation=0.0, frozen_stages=4, views_per_image=8)
    assert len({view for step in range(12) for view in batches[step].views.tolist()}) == 6


def test_the_replayed_share_is_as_configured(base: str, images: list[LabeledImage]) -> None:
    batches = make_batches(base, images, replay_share=0.5, batch_size=1)
    shares = [bool(batches[step].replayed.any()) for step in range(60)]
    assert 0.3 < np.mean(shares) < 0.7
    assert not any(make_batches(base, images)[step].replayed.any() for step in range(10))


def test_only_the_configured_tasks_are_trained(base: str, images: list[LabeledImage]) -> None:
    batches = make_batches(base, images, tasks=("<OD>",), prompts_per_image=4)
    assert len(batches[0].owner) == 3  # one for each image


def with_own_samples(image: LabeledImage, *texts: str) -> LabeledImage:
    """Returns the image with no labels except samples."""
    samples = tuple(Sample(find_task("<VQA>"), (Text(label=text),), text=text) for text in texts)
    return replace(image, annotations=(), complete=frozenset(), samples=samples)


def test_replayed_views_have_the_same_pixels(base: str, images: list[LabeledImage]) -> None:
    config = TuneConfig(
        base=base, batch_size=8, prompts_per_image=1, augmentation=0.0, replay_share=0.9, frozen_stages=4
    )
    source = DatasetReplay(Dataset(tuple(images[:5])))
    batches = TrainingBatches(read_checkpoint(base), images, CLASSES, config, source)
    shown: dict[int, torch.Tensor] = {}
    for step in (0, 1, POOL_SIZE // 8, POOL_SIZE // 8 + 1):  # the pool, and its beginning again
        batch = batches[step]
        for view, pixels in zip(batch.views.tolist(), batch.pixels, strict=True):
            assert torch.equal(shown.setdefault(view, pixels), pixels)
    assert sum(view < 0 for view in shown) > 8


def test_all_of_many_samples_are_used(base: str, images: list[LabeledImage]) -> None:
    texts = [f"is it {word}" for word in ("cat", "dog", "tree", "red", "blue", "small", "big", "left")]
    batches = make_batches(base, [with_own_samples(images[0], *texts)], batch_size=1)
    answers = {tuple(row.tolist()) for step in range(30) for row in batches[step].labels}
    assert all(len(batches[step].owner) == 2 for step in range(30))
    assert len({tuple(v for v in row if v >= 0) for row in answers}) == len(texts)


def test_prompts_that_are_too_long_are_left_out(base: str, images: list[LabeledImage]) -> None:
    with pytest.raises(ValueError, match=r"no sample fits the model, for example .*the prompt of its <VQA> sample has"):
        make_batches(base, [with_own_samples(images[0], "cat " * 2000)], batch_size=1)
    both = make_batches(base, [with_own_samples(images[0], "cat " * 2000, "cat")], batch_size=1)
    assert both[0].owner.tolist() == [0]
    (left_out,) = both.left_out
    assert both[0].left_out == (left_out,)
    assert (left_out.image, left_out.task, left_out.part) == (images[0].name, "<VQA>", "prompt")
    assert left_out.tokens > left_out.limit == both.tokenizer.max_prompt
    validation_set = ValidationSet([with_own_samples(images[0], "cat " * 2000)], CLASSES, ["<VQA>"])
    with Engine.load(EngineConfig(base)) as engine:
        assert [counts.labels for counts in validation_set.count_corrections(engine)] == [0]


def test_an_answer_that_is_too_long_is_left_out_and_never_cut(base: str, images: list[LabeledImage]) -> None:
    """A cut answer has no end token, and teaches the model to leave out objects."""
    many = tuple(Box(label="cat", box=(x, y, x + 4.0, y + 4)) for y in range(0, 40, 5) for x in range(0, 40, 5))
    dense = replace(images[0], name="dense.png", annotations=many, samples=())
    batches = make_batches(base, [dense, *images[1:3]], tasks=("<OD>", "<REGION_TO_CATEGORY>"), prompts_per_image=1)
    assert [(sample.image, sample.task, sample.part) for sample in batches.left_out] == [
        ("dense.png", "<OD>", "answer")
    ]
    eos = batches.files.config.text_config.eos_token_id
    named = 0
    for number in range(20):
        batch = batches[number]
        assert len(batch.owner) == 3  # another task takes the place of the long answer
        for row in batch.labels:
            assert row[row >= 0][-1] == eos
        named += sum(sample.image == "dense.png" for sample in batch.left_out)
    assert named > 3


def test_crops_of_a_dense_image_are_trained_where_their_answers_fit(base: str, images: list[LabeledImage]) -> None:
    boxes = tuple(Box(label="cat", box=(x, y, x + 8.0, y + 8)) for y in range(0, 80, 16) for x in range(0, 96, 16))
    dense = replace(images[0], annotations=boxes, samples=())
    batches = make_batches(base, [dense, images[1]], tasks=("<OD>",), batch_size=2, augmentation=1.0)
    assert len(batches.left_out) == 1
    made = [batches[number] for number in range(40)]
    assert any(batch.left_out for batch in made)
    assert any(len(batch.owner) == 2 for batch in made)


def test_the_main_tasks_depend_on_labels_and_settings(images: list[LabeledImage]) -> None:
    assert select_main_tasks([with_own_samples(images[0], "cat")], ()) == ["<VQA>"]
    assert select_main_tasks(images, ()) == ["<OD>"]
    assert select_main_tasks(images, ("<REGION_PROPOSAL>", "<REGION_TO_CATEGORY>")) == [
        "<REGION_PROPOSAL>", "<REGION_TO_CATEGORY>",
    ]  # fmt: skip


def test_the_tokens_of_classes_are_counted(base: str, images: list[LabeledImage]) -> None:
    boxes = [Box(label=label, box=(1, 1, 9, 9)) for label in ("cat", "cat", "dog")]
    batches = make_batches(base, [replace(images[0], annotations=(*boxes, Text(label="a cat and a tree")))])
    encode = read_checkpoint(base).tokenizer.backend.encode
    cat, dog = (encode(label, add_special_tokens=False).ids for label in ("cat", "dog"))
    counts = batches.count_class_tokens()
    assert all(counts[token] == 2 + (token in dog) for token in cat)
    assert counts.keys() == {*cat, *dog}
