"""A run from its first step to its last: stopped and gone on with, refused, ended early, and what it leaves."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.tuning import loop
from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import Diverged, Outcome, TuneError, tune
from finetune.tuning.trainer import Trainer
from labels.labeled_image import LabeledImage

LABELS = ("cat", "dog", "tree")


def settings(base: str, **given: Any) -> TuneConfig:
    small = {"steps": 6, "pictures": 2, "prompts": 2, "replay": 0.0, "rank": 4, "alpha": 8, "evaluate": 2}
    return TuneConfig(base=base, **{**small, "metric": "loss", "lora_dropout": 0.1, **given})


def run(config: TuneConfig, examples: list[LabeledImage], out: Path, **given: Any) -> Outcome:
    return tune(config, examples[:4], out, held=examples[4:], labels=LABELS, workers=0, **given)


def same(one: Path, two: Path) -> bool:
    states = [torch.load(out / "state.pt", weights_only=True)["trainer"] for out in (one, two)]
    weights = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, two)]
    return (
        all(torch.equal(v, states[1]["average"][k]) for k, v in states[0]["average"].items())
        and all(torch.equal(v, states[1]["learned"][k]) for k, v in states[0]["learned"].items())
        and all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    )


@pytest.fixture(scope="module")
def undisturbed(base: str, examples: list[LabeledImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(settings(base), examples, out)
    return out


def _child(config: TuneConfig, examples: list[LabeledImage], out: Path) -> None:
    torch.set_num_threads(1)
    run(config, examples, out)


def test_after_kill_9_it_goes_on_bit_for_bit(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=_child, args=(settings(base), examples, out))
        child.start()
        lines = len((out / "log.jsonl").read_text().splitlines()) if (out / "log.jsonl").exists() else 0
        while child.is_alive() and not (
            (out / "log.jsonl").exists() and len((out / "log.jsonl").read_text().splitlines()) > lines + 1
        ):
            time.sleep(0.01)
        if child.pid and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    outcome = run(settings(base), examples, out)
    assert outcome.steps == 6
    assert same(undisturbed, out)
    read = [[(line["step"], line.get("held")) for line in loop.runs.read_log(o)] for o in (undisturbed, out)]
    assert read[0] == read[1]


def stopping_after(calls: int) -> Callable[[], bool]:
    """True from the call on after so many."""
    count = iter(range(10_000))
    return lambda: next(count) >= calls


# Asked before each step, and before each of eight lessons of a look: in the first look, before the second step, in the
# look after that.
@pytest.mark.parametrize(("calls", "steps"), [(4, 0), (9, 1), (14, 2)])
def test_asked_to_stop_it_keeps_what_was_done_and_goes_on_later(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path, calls: int, steps: int
) -> None:
    first = run(settings(base), examples, tmp_path, stop=stopping_after(calls))
    assert (first.stopped, first.steps) == ("asked to", steps)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "stopped"
    if steps:
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == steps
    taught: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step

        def heard(self: Trainer, lessons: Any, number: int) -> dict[str, float]:
            taught.append(number)
            return step(self, lessons, number)

        patch.setattr(Trainer, "step", heard)
        run(settings(base), examples, tmp_path)
    assert taught == list(range(steps, 6))
    assert same(undisturbed, tmp_path)
    read = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in loop.runs.read_log(out)]
        for out in (undisturbed, tmp_path)
    ]
    assert read[0] == read[1]


def test_a_look_by_answers_ends_soon_when_asked_to(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    config = settings(base, metric="corrections", steps=2)
    first = run(config, examples, tmp_path, stop=stopping_after(1))
    assert (first.stopped, first.steps, first.before) == ("asked to", 0, None)
    assert run(config, examples, tmp_path).before is not None


def test_a_kill_while_the_best_is_replaced_leaves_one(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    replace, puts = Path.replace, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal puts
        puts += target.name == "adapter"
        if puts == 2:
            raise Killed
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(Killed):
        run(settings(base), examples, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "adapter").exists()
    kept = [path for path in tmp_path.iterdir() if (path / "adapter_model.safetensors").exists()]
    assert len(kept) == 2  # the one before, and the one that was to be
    run(settings(base), examples, tmp_path, stop=lambda: True)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    run(settings(base), examples, tmp_path)
    assert same(undisturbed, tmp_path)


def test_the_held_out_loss_is_that_of_the_answers_alone(
    base: str, examples: list[LabeledImage], tmp_path: Path
) -> None:
    # At the base the anchor pulls nowhere; a step further its weight would be more than any answer's.
    moved = run(settings(base, steps=1, rate=1e-4, method="full", anchor="l2sp", strength=1e9), examples, tmp_path)
    assert moved.best_step == 1


def test_the_anchor_kl_needs_something_to_replay(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=r"nothing is at hand to replay for this base.*take the anchor l2sp"):
        run(settings(base, anchor="kl", replay=0.5), examples, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_was_before_is_what_it_started_from(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    first = run(settings(base, rate=0.01, steps=2), examples, tmp_path / "first")
    assert first.best_step == 2
    assert first.best is not None
    again = run(settings(base, start=str(first.folder), steps=1), examples, tmp_path / "again")
    assert again.before == pytest.approx(first.best, rel=1e-4)


def test_the_adapter_that_it_starts_from_may_be_moved_but_not_be_another(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path
) -> None:
    first, out = tmp_path / "first", tmp_path / "run"
    shutil.copytree(undisturbed / "adapter", first)
    run(settings(base, start=str(first)), examples, tmp_path / "whole")
    assert run(settings(base, start=str(first)), examples, out, stop=stopping_after(9)).steps == 1
    moved = first.rename(tmp_path / "moved")
    other = tmp_path / "other"
    shutil.copytree(moved, other)
    weights = other / "adapter_model.safetensors"
    save_file({name: 2 * value for name, value in load_file(weights).items()}, weights)

    def refused(start: str, said: str) -> None:
        with pytest.raises(TuneError, match=said):
            run(settings(base, start=start), examples, out)

    refused(str(other), r"start was '\w{64}', now '\w{64}' \(the weights of the adapter that it goes on from\)")
    refused("", r"start was '\w{64}', now None")
    path = out / "run.json"
    told = json.loads(path.read_text())
    assert told["source"]["start"] == str(first)
    # Before, it was told by its path alone.
    del told["run"]["start"]
    told["run"]["config"]["start"] = str(first)
    path.write_text(json.dumps(told))
    refused("", f"start was '{first}', now None")
    assert run(settings(base, start=str(moved)), examples, out).steps == 6
    assert same(tmp_path / "whole", out)
    assert json.loads(path.read_text())["source"]["start"] == str(moved)


def test_what_it_leaves(undisturbed: Path, examples: list[LabeledImage]) -> None:
    made = json.loads((undisturbed / "run.json").read_text())
    assert made["state"] == "done"
    assert made["run"]["train"]["pictures"] == 4
    assert made["run"]["config"]["steps"] == 6
    assert {"torch", "peft"} <= set(made["surroundings"]["packages"])
    lines = loop.runs.read_log(undisturbed)
    assert [line["step"] for line in lines] == [0, 2, 4, 6]
    best = min(lines, key=lambda line: line["held"])
    assert made["best"] == {"held": pytest.approx(best["held"], abs=1e-5), "step": best["step"]}
    assert (undisturbed / "curves.png").stat().st_size > 5000
    assert sorted(path.name for path in undisturbed.iterdir()) == [
        "adapter", "curves.png", "log.jsonl", "run.json", "state.pt", "tensorboard",
    ]  # fmt: skip


def test_it_learns(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    config = settings(base, steps=40, rate=0.01, evaluate=20, augment=0.0, lora_dropout=0.0, ema=0.8, tasks=("<OD>",))
    outcome = tune(config, examples[:2], tmp_path, held=examples[:2], labels=LABELS, workers=0)
    assert outcome.before is not None
    assert outcome.best is not None
    assert outcome.best < 0.8 * outcome.before


def test_a_finished_run_is_not_run_again(base: str, examples: list[LabeledImage], undisturbed: Path) -> None:
    heard: list[dict[str, Any]] = []
    again = run(settings(base), examples, undisturbed, told=heard.append)
    assert (again.steps, heard) == (6, [])


def test_a_run_of_before_a_setting_was_known_goes_on(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    made = json.loads(path.read_text())
    del made["run"]["config"]["replay_from"], made["run"]["start"]
    path.write_text(json.dumps(made))
    assert run(settings(base), examples, tmp_path / "run").steps == 6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c, e: (c.model_copy(update={"rate": 0.5}), e), "config.rate was 0.001, now 0.5"),
        (lambda c, e: (c, [e[1], e[0], *e[2:]]), "train.sha256"),
    ],
)
def test_another_run_in_the_folder_is_refused(
    base: str, examples: list[LabeledImage], undisturbed: Path, change: Callable[..., Any], said: str
) -> None:
    config, others = change(settings(base), examples)
    before = (undisturbed / "run.json").read_text()
    with pytest.raises(TuneError, match="holds another run") as caught:
        run(config, others, undisturbed)
    assert said in str(caught.value)
    assert (undisturbed / "run.json").read_text() == before


def test_a_folder_of_other_things_is_refused(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TuneError, match="holds other files"):
        run(settings(base), examples, tmp_path)


def test_a_loss_that_is_no_number_stops_it_and_keeps_the_last_good(
    base: str, examples: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def poisoned(self: Trainer, lessons: Any, number: int) -> dict[str, float]:
        if number == 3:
            with torch.no_grad():
                next(iter(self.learner.learned.values())).fill_(float("nan"))
        return step(self, lessons, number)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(
        Diverged,
        match=r"step 4: the loss is nan; lower the rate .* What was good at step 2 is kept in .*adapter",
    ) as caught:
        run(settings(base), examples, tmp_path)
    kept = caught.value.kept
    assert (kept.folder, kept.steps, kept.best_step) == (tmp_path / "adapter", 3, 2)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"
    assert all(v.isfinite().all() for v in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values())
    monkeypatch.undo()
    assert run(settings(base), examples, tmp_path).steps == 6  # once that is mended


def test_a_full_disk_loses_nothing(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, 0

    def full(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TuneError, match="No space left on device; once that is mended, the same command goes on"):
        run(settings(base), examples, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"
    assert not (tmp_path / "state.partial").exists()
    monkeypatch.undo()
    run(settings(base), examples, tmp_path)
    assert same(undisturbed, tmp_path)


def _cramped(config: TuneConfig, examples: list[LabeledImage], out: Path, most: int, said: Connection) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # a file that grows further fails as on a full disk
    try:
        run(config, examples, out)
    except TuneError as error:
        said.send(str(error))


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "state.pt"])
def test_what_cannot_be_written_is_told(
    base: str, examples: list[LabeledImage], undisturbed: Path, tmp_path: Path, file: str
) -> None:
    most = (undisturbed / file).stat().st_size * 9 // 10
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_cramped, args=(settings(base), examples, tmp_path, most, there))
    child.start()
    there.close()
    assert here.recv().endswith("once that is mended, the same command goes on")
    child.join()
    run(settings(base), examples, tmp_path)
    assert same(undisturbed, tmp_path)


def test_a_line_of_the_log_that_was_cut_short(base: str, undisturbed: Path, tmp_path: Path) -> None:
    lines = (undisturbed / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text(f"{lines[0]}\n{lines[1][:9]}{lines[1]}\n{lines[2]}\n{lines[3][:-9]}")
    assert [line["step"] for line in loop.runs.read_log(tmp_path)] == [0, 4]


def test_held_out_pictures_without_a_label_are_refused(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    empty = [example.with_annotations() for example in examples[4:]]
    with pytest.raises(TuneError, match="no label that could tell which step is the best"):
        tune(settings(base, metric="corrections"), examples[:4], tmp_path, held=empty, labels=LABELS, workers=0)


def test_rare_labels_weigh_more_where_asked(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    losses = {}
    for balance in (0.0, 1.0):
        out = tmp_path / str(balance)
        run(settings(base, steps=1, balance=balance, lora_dropout=0.0), examples, out)
        [line] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines() if '"text"' in line]
        losses[balance] = line
    assert losses[0.0]["text"] != losses[1.0]["text"]
    assert losses[0.0]["location"] == losses[1.0]["location"]


def test_it_ends_early_when_it_gets_no_better(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    config = settings(base, steps=40, rate=1e-30, patience=2)
    outcome = run(config, examples, tmp_path)
    assert outcome.stopped == "no better for 2 looks"
    assert (outcome.best_step, outcome.steps) == (0, 4)  # such a rate makes nothing better
    again = run(config, examples, tmp_path)
    assert (again.stopped, again.steps) == (outcome.stopped, 4)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "done"


def test_labels_that_teach_nothing(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="the labels teach none of <OCR>"):
        run(settings(base, tasks=("<OCR>",)), examples, tmp_path)


def test_corrections_are_counted_by_the_engine(base: str, examples: list[LabeledImage], tmp_path: Path) -> None:
    outcome = run(settings(base, metric="corrections", steps=2), examples, tmp_path)
    assert outcome.before is not None
    assert outcome.before > 0
