"""What is replayed, and from where."""

from pathlib import Path
from typing import Any

import pytest

from finetune.datasets import coco
from finetune.datasets.example import Dataset, DatasetError, Example
from finetune.tuning import replay
from finetune.tuning.config import TuneConfig


def settings(**given: Any) -> TuneConfig:
    return TuneConfig(**{"base": "another", **given})


@pytest.fixture
def dataset(examples: list[Example], tmp_path: Path) -> Path:
    """Six pictures, as COCO."""
    return coco.write(examples, tmp_path / "world").parent


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


def test_of_many_pictures_some_from_all_over(examples: list[Example]) -> None:
    many = Dataset(tuple(examples[:2] * 400 + examples[2:4] * 400))
    world = replay.world(settings(replay_from="many"), lambda name: many)
    assert world is not None
    assert {example.name for example in world.probe} <= {f"{n}.png" for n in range(4)}
    pictures = [world.replay(number, 1)[0].tobytes() for number in range(replay.POOL)]
    assert len(set(pictures)) == 4 - len({example.name for example in world.probe})


def test_what_a_dataset_holds_out_is_kept_back_and_never_replayed(examples: list[Example]) -> None:
    held = frozenset(example.name for example in examples[:2])
    world = replay.world(settings(replay_from="project"), lambda name: Dataset(tuple(examples), held=held))
    assert world is not None
    assert {example.name for example in world.probe} == held
    kept = {example.open().tobytes() for example in world.probe}
    assert not kept & {world.replay(number, 1)[0].tobytes() for number in range(12)}


def test_of_few_all_are_replayed(examples: list[Example]) -> None:
    world = replay.world(settings(replay_from="few"), lambda name: Dataset(tuple(examples[:3])))
    assert world is not None
    assert world.probe == ()


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no dataset"):
        replay.world(settings(replay_from=str(tmp_path / "nowhere")))
