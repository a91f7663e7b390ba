"""What is replayed, and from where."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.tuning import replay
from finetune.tuning.config import TuneConfig
from labels.dataset import Dataset, DatasetError
from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage
from prompts.annotations import Box


def settings(**given: Any) -> TuneConfig:
    return TuneConfig(**{"base": "another", **given})


@pytest.fixture
def dataset(examples: list[LabeledImage], tmp_path: Path) -> Path:
    """Six pictures, as COCO."""
    FORMATS["coco"].write(examples, tmp_path / "world", copy_images=True)
    return tmp_path / "world"


def test_the_seedlings_world_is_drawn_and_of_others_nothing_is_known() -> None:
    seedling = replay.world(settings(base="seedling"))
    assert seedling is not None
    assert seedling.replay is replay.scenes
    assert replay.world(settings()) is None
    assert replay.world(settings(base="seedling", replay=0)) is None
    assert settings(base="seedling").replays
    assert settings(replay_from="x").replays
    assert not settings().replays
    assert not settings(replay_from="x", replay=0).replays


def test_the_seedlings_things_are_told_in_nearly_their_order_from_left_to_right() -> None:
    asked = [question for number in range(12) for question in replay.scenes(number, 12)[1]]
    whole = [question for question in asked if question.task.token in ("<OD>", "<DENSE_REGION_CAPTION>")]
    told = [[note.box[0] for note in question.answer if isinstance(note, Box)] for question in whole]
    assert any(begins != sorted(begins) for begins in told)  # `draw` tells them sorted


@pytest.mark.parametrize("base", ["another", "seedling"])
def test_a_named_dataset_is_replayed_but_for_what_is_kept_back(dataset: Path, base: str) -> None:
    world = replay.world(settings(base=base, replay_from=str(dataset)))
    assert world is not None
    assert len(world.probe) == 1
    kept = {world.probe[0].open().tobytes()}
    replayed = {world.replay(number, 2)[0].tobytes() for number in range(12)}
    assert len(replayed) == 5
    assert not kept & replayed
    (image, asked), (again, same) = world.replay(3, 2), world.replay(3, 2)
    assert image.tobytes() == again.tobytes()
    assert asked == same
    assert 1 <= len(asked) <= 2


def test_what_is_kept_back_is_told_without_a_look_at_the_others(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, looked, decode = settings(replay_from=str(dataset)), list[str](), ImageFile.__call__
    world = replay.world(config)
    assert world is not None
    monkeypatch.setattr(ImageFile, "__call__", lambda self: looked.append(self.path.name) or decode(self))
    assert replay.kept_back(config) == (world.probe, world.labels)
    assert looked == [example.name for example in world.probe]
    assert replay.kept_back(settings(base="seedling")) == ((), ())
    assert replay.kept_back(settings(replay_from=str(dataset), replay=0)) == ((), ())


def test_of_many_pictures_some_from_all_over(examples: list[LabeledImage]) -> None:
    many = Dataset(tuple(examples[:2] * 400 + examples[2:4] * 400))
    world = replay.world(settings(replay_from="many"), lambda name: many)
    assert world is not None
    assert {example.name for example in world.probe} <= {f"{n}.png" for n in range(4)}
    pictures = [world.replay(number, 1)[0].tobytes() for number in range(replay.POOL)]
    assert len(set(pictures)) == 4 - len({example.name for example in world.probe})


def test_what_a_dataset_holds_out_is_kept_back_and_never_replayed(examples: list[LabeledImage]) -> None:
    held = frozenset(example.name for example in examples[:2])
    world = replay.world(settings(replay_from="project"), lambda name: Dataset(tuple(examples), holdout=held))
    assert world is not None
    assert {example.name for example in world.probe} == held
    kept = {example.open().tobytes() for example in world.probe}
    assert not kept & {world.replay(number, 1)[0].tobytes() for number in range(12)}


def test_what_cannot_be_opened_is_neither_replayed_nor_kept_back(examples: list[LabeledImage]) -> None:
    def broken() -> Image.Image:
        raise OSError("it is cut short")

    cut = [replace(example, open=broken, source=example.name) for example in examples]
    for shown in ([*cut[:1], *examples[1:3], *cut[3:4], *examples[4:]], [*cut[:3], *examples[3:]]):
        known = Dataset(tuple(shown), holdout=frozenset(example.name for example in examples[:3]))
        world = replay.world(settings(replay_from="project"), lambda name, known=known: known)
        assert world is not None
        unusable = {example.name for example in shown if example.open is broken}
        assert {each.source for each in world.unusable} == unusable
        assert {example.name for example in world.probe} == known.holdout - unusable
        assert len({world.replay(number, 1)[0].tobytes() for number in range(12)}) == 3 - len(unusable - known.holdout)


def test_of_few_all_are_replayed(examples: list[LabeledImage]) -> None:
    world = replay.world(settings(replay_from="few"), lambda name: Dataset(tuple(examples[:3])))
    assert world is not None
    assert world.probe == ()


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no dataset"):
        replay.world(settings(replay_from=str(tmp_path / "nowhere")))
