"""What a run replays, and which images it keeps to measure forgetting."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import POOL_SIZE, ReplayData, load_replay, load_replay_holdout
from labels.dataset import Dataset, DatasetError
from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from labels.writing.image_options import ImagePlacement


class NoReplay:
    """A source that only needs to be recognized."""

    def load(self, number: int, max_samples: int) -> tuple[Image.Image, list[Sample]]:
        raise NotImplementedError


def make_config(**settings: Any) -> TuneConfig:
    return TuneConfig(**{"base": "another", **settings})


def load_dataset_replay(dataset: Dataset) -> ReplayData:
    replay = load_replay(make_config(replay_dataset="named"), None, lambda name: dataset)
    assert replay is not None
    return replay


def list_names(images: tuple[LabeledImage, ...]) -> set[str]:
    return {image.name for image in images}


def list_replayed(replay: ReplayData, count: int = 12) -> set[bytes]:
    return {replay.source.load(number, 2)[0].tobytes() for number in range(count)}


@pytest.fixture
def dataset(images: list[LabeledImage], tmp_path: Path) -> Path:
    """Six images, as COCO."""
    FORMATS["coco"].write(images, tmp_path / "dataset", placement=ImagePlacement.COPY)
    return tmp_path / "dataset"


def test_without_a_dataset_the_source_of_the_base_is_replayed() -> None:
    source = NoReplay()
    own = load_replay(make_config(base="seedling"), source)
    assert own is not None
    assert own.source is source
    assert load_replay(make_config(), None) is None
    assert load_replay(make_config(base="seedling", replay_share=0), source) is None
    assert make_config(base="seedling").can_replay
    assert make_config(replay_dataset="x").can_replay
    assert not make_config().can_replay
    assert not make_config(replay_dataset="x", replay_share=0).can_replay


@pytest.mark.parametrize("base", ["another", "seedling"])
def test_a_dataset_is_replayed_except_for_its_holdout(dataset: Path, base: str) -> None:
    replay = load_replay(make_config(base=base, replay_dataset=str(dataset)), NoReplay())
    assert replay is not None
    assert len(replay.holdout) == 1
    replayed = list_replayed(replay)
    assert len(replayed) == 5
    assert not {replay.holdout[0].open().tobytes()} & replayed
    (image, samples), (again, same) = replay.source.load(3, 2), replay.source.load(3, 2)
    assert image.tobytes() == again.tobytes()
    assert samples == same
    assert 1 <= len(samples) <= 2


def test_the_holdout_is_loaded_without_reading_other_images(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, read, decode = make_config(replay_dataset=str(dataset)), list[str](), ImageFile.__call__
    replay = load_replay(config, None)
    assert replay is not None
    monkeypatch.setattr(ImageFile, "__call__", lambda self: read.append(self.path.name) or decode(self))
    assert load_replay_holdout(config) == (replay.holdout, replay.classes)
    assert read == [image.name for image in replay.holdout]
    assert load_replay_holdout(make_config(base="seedling")) == ((), ())
    assert load_replay_holdout(make_config(replay_dataset=str(dataset), replay_share=0)) == ((), ())


def test_some_images_from_all_parts_of_a_large_dataset_are_replayed(images: list[LabeledImage]) -> None:
    replay = load_dataset_replay(Dataset(tuple(images[:2] * 400 + images[2:4] * 400)))
    assert list_names(replay.holdout) <= {f"{n}.png" for n in range(4)}
    assert len(list_replayed(replay, POOL_SIZE)) == 4 - len(list_names(replay.holdout))


def test_the_holdout_of_a_dataset_is_never_replayed(images: list[LabeledImage]) -> None:
    holdout = frozenset(image.name for image in images[:2])
    replay = load_dataset_replay(Dataset(tuple(images), holdout=holdout))
    assert list_names(replay.holdout) == holdout
    assert not {image.open().tobytes() for image in replay.holdout} & list_replayed(replay)


def test_unreadable_images_are_neither_replayed_nor_in_the_holdout(images: list[LabeledImage]) -> None:
    def fail_to_open() -> Image.Image:
        raise OSError("it is truncated")

    broken = [replace(image, open=fail_to_open, source=image.name) for image in images]
    for shown in ([*broken[:1], *images[1:3], *broken[3:4], *images[4:]], [*broken[:3], *images[3:]]):
        dataset = Dataset(tuple(shown), holdout=frozenset(image.name for image in images[:3]))
        replay = load_dataset_replay(dataset)
        unusable = {image.name for image in shown if image.open is fail_to_open}
        assert {entry.source for entry in replay.unusable} == unusable
        assert list_names(replay.holdout) == dataset.holdout - unusable
        assert len(list_replayed(replay)) == 3 - len(unusable - dataset.holdout)


def test_a_small_dataset_is_replayed_completely(images: list[LabeledImage]) -> None:
    assert load_dataset_replay(Dataset(tuple(images[:3]))).holdout == ()


def test_a_missing_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no dataset"):
        load_replay(make_config(replay_dataset=str(tmp_path / "nowhere")), None)
