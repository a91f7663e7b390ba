"""`run.json`: what a run saves, and what is compared when it continues."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import tune
from finetune.tuning.result import TuneError, TuneResult
from finetune.tuning.run_record import RunSource, TuneData, hash_images
from labels.dataset import UnusableEntry
from labels.labeled_image import LabeledImage

CLASSES = ("cat", "dog", "tree")
UNUSABLE = tuple(UnusableEntry(f"labels.json: annotation {i}", "its box\nhas no area") for i in range(12))
SOURCE = RunSource("my/corrected", "my/holdout", UNUSABLE)


def run(base: str, images: list[LabeledImage], out: Path, source: RunSource) -> TuneResult:
    config = TuneConfig(
        base=base, steps=1, batch_size=1, prompts_per_image=1, replay_share=0, lora_rank=2, augmentation=0,
        metric="loss",
    )  # fmt: skip
    return tune(config, TuneData(images[:2], images[2:3], CLASSES, source=source), out, workers=0)


@pytest.fixture(scope="module")
def finished(base: str, images: list[LabeledImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("finished") / "run"
    run(base, images, out, SOURCE)
    return out


def test_the_record_has_datasets_hashes_and_versions(finished: Path, images: list[LabeledImage]) -> None:
    record = json.loads((finished / "run.json").read_text())
    source = {"dataset": "my/corrected", "holdout": "my/holdout", "unusable": 12, "start_adapter": ""}
    assert record["source"] == source
    assert record["run"]["train"] == {"images": 2, "sha256": hash_images(images[:2])}
    assert record["run"]["holdout"] == {"images": 1, "sha256": hash_images(images[2:3])}
    packages = ("florist", "torch", "transformers", "peft")
    versions = record["environment"]["packages"]
    assert {name: versions[name] for name in packages} == {name: version(name) for name in packages}


def test_unusable_entries_are_listed_one_a_line(finished: Path) -> None:
    lines = (finished / "unusable.txt").read_text().splitlines()
    assert lines == [f"labels.json: annotation {i}: its box has no area" for i in range(12)]


def test_a_run_with_a_moved_dataset_or_an_older_record_continues(
    base: str, images: list[LabeledImage], finished: Path
) -> None:
    path = finished / "run.json"
    record = json.loads(path.read_text())
    del record["source"], record["environment"]
    path.write_text(json.dumps(record))
    assert run(base, images, finished, RunSource("moved/corrected")).steps == 1
    assert json.loads(path.read_text())["source"]["dataset"] == "moved/corrected"
    assert not (finished / "unusable.txt").exists()  # nothing is unusable this time
    run(base, images, finished, SOURCE)


def test_a_dataset_with_changed_labels_is_refused(base: str, images: list[LabeledImage], finished: Path) -> None:
    fewer = [images[0].with_annotations(*images[0].annotations[1:]), *images[1:]]
    with pytest.raises(TuneError, match=r"train.sha256 was .* \(the training images, or their labels\)"):
        run(base, fewer, finished, SOURCE)
    renamed = [*images[:2], replace(images[2], name="another")]
    with pytest.raises(TuneError, match=r"holdout.sha256 was .* \(the holdout images, or their labels\)"):
        run(base, renamed, finished, SOURCE)
