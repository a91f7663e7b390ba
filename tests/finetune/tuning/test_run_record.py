"""What a run writes down of what it was made of, and what is compared when it goes on."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import Outcome, TuneError, tune
from finetune.tuning.run_record import Source, fingerprint
from labels.dataset import UnusableEntry
from labels.labeled_image import LabeledImage

LABELS = ("cat", "dog", "tree")
LEFT_OUT = tuple(UnusableEntry(f"labels.json: annotation {i}", "its box\nhas no area") for i in range(12))
SOURCE = Source("my/corrected", "my/held", LEFT_OUT)


def run(base: str, examples: list[LabeledImage], out: Path, source: Source) -> Outcome:
    config = TuneConfig(base=base, steps=1, pictures=1, prompts=1, replay=0, rank=2, augment=0, metric="loss")
    return tune(config, examples[:2], out, held=examples[2:3], labels=LABELS, workers=0, source=source)


@pytest.fixture(scope="module")
def made(base: str, examples: list[LabeledImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("made") / "run"
    run(base, examples, out, SOURCE)
    return out


def test_it_names_its_datasets_their_hashes_and_the_versions(made: Path, examples: list[LabeledImage]) -> None:
    told = json.loads((made / "run.json").read_text())
    assert told["source"] == {"dataset": "my/corrected", "held": "my/held", "unusable": 12, "start": ""}
    assert told["run"]["train"] == {"pictures": 2, "sha256": fingerprint(examples[:2])}
    assert told["run"]["held"] == {"pictures": 1, "sha256": fingerprint(examples[2:3])}
    packages = ("florist", "torch", "transformers", "peft")
    assert {name: told["surroundings"]["packages"][name] for name in packages} == {n: version(n) for n in packages}


def test_all_that_cannot_be_used_is_listed_one_a_line(made: Path) -> None:
    lines = (made / "unusable.txt").read_text().splitlines()
    assert lines == [f"labels.json: annotation {i}: its box has no area" for i in range(12)]


def test_a_moved_dataset_and_an_older_file_go_on(base: str, examples: list[LabeledImage], made: Path) -> None:
    path = made / "run.json"
    told = json.loads(path.read_text())
    del told["source"], told["surroundings"]
    path.write_text(json.dumps(told))
    assert run(base, examples, made, Source("moved/corrected")).steps == 1
    assert json.loads(path.read_text())["source"]["dataset"] == "moved/corrected"
    assert not (made / "unusable.txt").exists()  # nothing was left out this time
    run(base, examples, made, SOURCE)


def test_a_dataset_whose_labels_were_changed_is_refused(base: str, examples: list[LabeledImage], made: Path) -> None:
    fewer = [examples[0].with_annotations(*examples[0].annotations[1:]), *examples[1:]]
    with pytest.raises(TuneError, match=r"train.sha256 was .* \(the pictures that are taught, or their labels\)"):
        run(base, fewer, made, SOURCE)
    held = [*examples[:2], replace(examples[2], name="another")]
    with pytest.raises(TuneError, match=r"held.sha256 was .* \(the held-out pictures, or their labels\)"):
        run(base, held, made, SOURCE)
