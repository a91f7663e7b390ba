"""The training loop: its results, its files, and the runs that it refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune.tuning.loop import tune
from finetune.tuning.result import TuneError
from finetune.tuning.run_record import TuneData
from finetune.tuning.training_log import read_log
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Text
from prompts.tasks import find_task
from server.engine.adapters.class_list import read_class_list, write_class_list
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.task_tokens import read_task_tokens
from tests.finetune.tuning.runs import CLASSES, make_config, run


def test_the_validation_loss_has_no_anchor(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    # The anchor is zero at the base; one step later, with this weight, it would exceed any loss of answers.
    config = make_config(base, steps=1, learning_rate=1e-4, method="full", anchor="l2sp", anchor_weight=1000)
    assert run(config, images, tmp_path).best_step == 1


def test_the_kl_anchor_needs_replay(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=r"there is nothing to replay for this base.*use the anchor l2sp"):
        run(make_config(base, anchor="kl", replay_share=0.5), images, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_metric_before_is_that_of_the_start_adapter(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    first = run(make_config(base, learning_rate=0.01, steps=2), images, tmp_path / "first")
    assert first.best_step == 2
    assert first.best is not None
    second = run(make_config(base, start_adapter=str(first.folder), steps=1), images, tmp_path / "second")
    assert second.before == pytest.approx(first.best, rel=1e-4)


def test_a_run_leaves_its_record_log_and_checkpoint(uninterrupted: Path) -> None:
    record = json.loads((uninterrupted / "run.json").read_text())
    assert record["state"] == "done"
    assert record["run"]["train"]["images"] == 4
    assert record["run"]["config"]["steps"] == 6
    assert {"torch", "peft"} <= set(record["environment"]["packages"])
    lines = read_log(uninterrupted)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    best = min(lines, key=lambda line: line["validation"])
    assert record["best"] == {"validation": pytest.approx(best["validation"], abs=1e-5), "step": best["step"]}
    assert (uninterrupted / "curves.png").stat().st_size > 5000
    assert sorted(path.name for path in uninterrupted.iterdir()) == [
        "adapter", "curves.png", "log.jsonl", "run.json", "state.pt", "tensorboard",
    ]  # fmt: skip


def test_training_reduces_the_loss(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    config = make_config(
        base, steps=40, learning_rate=0.01, evaluate_every=20, augmentation=0.0, lora_dropout=0.0, ema_decay=0.8,
        tasks=("<OD>",),
    )  # fmt: skip
    result = tune(config, TuneData(images[:2], images[:2], CLASSES), tmp_path, workers=0)
    assert result.before is not None
    assert result.best is not None
    assert result.best < 0.8 * result.before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, i: (c.model_copy(update={"learning_rate": 0.5}), i), "config.learning_rate was 0.001, now 0.5"),
        (lambda c, i: (c, [i[1], i[0], *i[2:]]), "train.sha256"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    base: str, images: list[LabeledImage], uninterrupted: Path, change: Callable[..., Any], message: str
) -> None:
    config, others = change(make_config(base), images)
    before = (uninterrupted / "run.json").read_text()
    with pytest.raises(TuneError, match="contains another run") as caught:
        run(config, others, uninterrupted)
    assert message in str(caught.value)
    assert (uninterrupted / "run.json").read_text() == before


def test_a_folder_with_other_files_is_refused(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TuneError, match="contains other files"):
        run(make_config(base), images, tmp_path)


def test_a_holdout_without_labels_is_refused(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    empty = [image.with_annotations() for image in images[4:]]
    with pytest.raises(TuneError, match="the holdout has no labels for the validation"):
        run(make_config(base, metric="corrections"), [*images[:4], *empty], tmp_path)


def test_class_balance_gives_rare_classes_more_weight(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    losses = {}
    for balance in (0.0, 1.0):
        out = tmp_path / str(balance)
        run(make_config(base, steps=1, class_balance=balance, lora_dropout=0.0), images, out)
        [line] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if '"text_loss"' in line]
        losses[balance] = line
    assert losses[0.0]["text_loss"] != losses[1.0]["text_loss"]
    assert losses[0.0]["location_loss"] == losses[1.0]["location_loss"]


def test_a_run_ends_early_without_improvement(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    config = make_config(base, steps=40, learning_rate=1e-12, patience=2)
    result = run(config, images, tmp_path)
    assert result.stopped == "no improvement in 2 validations"
    assert (result.best_step, result.steps) == (2, 4)  # this learning rate changes nothing
    assert result.gain is not None
    assert not result.gain.gained
    again = run(config, images, tmp_path)
    assert (again.stopped, again.steps) == (result.stopped, 4)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "done"


def test_labels_without_a_trainable_task_are_refused(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="the labels allow no training of <OCR>"):
        run(make_config(base, tasks=("<OCR>",)), images, tmp_path)


def test_the_metric_corrections_uses_the_engine(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    result = run(make_config(base, metric="corrections", steps=2), images, tmp_path)
    assert result.before is not None
    assert result.before > 0


def test_an_adapter_names_its_classes_and_the_tasks_of_its_own(
    base: str, images: list[LabeledImage], tmp_path: Path
) -> None:
    sample = Sample(find_task("<COUNT>"), (Text(label="two"),), text="cats")
    counted = [replace(image, samples=(sample,)) for image in images]
    result = run(make_config(base, steps=1, tasks=("<OD>", "<COUNT>")), counted, tmp_path)
    assert read_class_list(result.folder) == CLASSES
    assert read_task_tokens(result.folder) == {"<COUNT>"}


def test_a_checkpoint_names_its_classes_with_those_of_its_base(
    base: str, images: list[LabeledImage], tmp_path: Path
) -> None:
    own = shutil.copytree(base, tmp_path / "base")
    write_class_list(own, ["horse", "cat"])
    result = run(make_config(str(own), steps=1, method="decoder"), images, tmp_path / "run")
    assert read_class_list(result.folder) == (*CLASSES, "horse")
    assert load_checkpoint(str(result.folder)).class_list == (*CLASSES, "horse")
