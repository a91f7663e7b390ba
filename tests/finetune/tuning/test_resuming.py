"""Runs that are stopped, killed or fail, and continue bit for bit."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import STOP_REQUESTED
from finetune.tuning.result import DivergenceError, TuneError
from finetune.tuning.trainer import Trainer
from finetune.tuning.training_log import read_log
from labels.labeled_image import LabeledImage
from tests.finetune.tuning.runs import is_same_run, make_config, run, stop_after


def _run_in_child(config: TuneConfig, images: list[LabeledImage], out: Path) -> None:
    torch.set_num_threads(1)
    run(config, images, out)


def test_a_killed_run_continues_bit_for_bit(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    log = out / "log.jsonl"
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=_run_in_child, args=(make_config(base), images, out))
        child.start()
        lines = len(log.read_text().splitlines()) if log.exists() else 0
        while child.is_alive() and not (log.exists() and len(log.read_text().splitlines()) > lines + 1):
            time.sleep(0.01)
        if child.pid and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
    result = run(make_config(base), images, out)
    assert result.steps == 6
    assert is_same_run(uninterrupted, out)
    logs = [[(line["step"], line.get("validation")) for line in read_log(o)] for o in (uninterrupted, out)]
    assert logs[0] == logs[1]


# `should_stop` is called before each step, and before each of the eight batches of a validation: it returns True in the
# first validation, before the second step, and in the validation after that.
@pytest.mark.parametrize(("calls", "steps"), [(4, 0), (9, 1), (14, 2)])
def test_a_stopped_run_keeps_its_steps_and_continues(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path, calls: int, steps: int
) -> None:
    first = run(make_config(base), images, tmp_path, should_stop=stop_after(calls))
    assert (first.stopped, first.steps) == (STOP_REQUESTED, steps)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "stopped"
    if steps:
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == steps
    trained: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        step = Trainer.step

        def record(self: Trainer, batches: Any, number: int) -> dict[str, float]:
            trained.append(number)
            return step(self, batches, number)

        patch.setattr(Trainer, "step", record)
        run(make_config(base), images, tmp_path)
    assert trained == list(range(steps, 6))
    assert is_same_run(uninterrupted, tmp_path)
    logs = [
        [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in read_log(out)]
        for out in (uninterrupted, tmp_path)
    ]
    assert logs[0] == logs[1]


def test_a_validation_by_corrections_can_be_stopped(base: str, images: list[LabeledImage], tmp_path: Path) -> None:
    config = make_config(base, metric="corrections", steps=2)
    first = run(config, images, tmp_path, should_stop=stop_after(1))
    assert (first.stopped, first.steps, first.before) == (STOP_REQUESTED, 0, None)
    assert run(config, images, tmp_path).before is not None


def test_a_kill_while_the_best_checkpoint_is_replaced_keeps_one(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    replace, count = Path.replace, 0

    def replace_or_die(self: Path, target: Path) -> Path:
        nonlocal count
        count += target.name == "adapter"
        if count == 2:
            raise KilledError
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_die)
    with pytest.raises(KilledError):
        run(make_config(base), images, tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "adapter").exists()
    complete = [path for path in tmp_path.iterdir() if (path / "adapter_model.safetensors").exists()]
    assert len(complete) == 2  # the previous one and the candidate
    run(make_config(base), images, tmp_path, should_stop=lambda: True)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    run(make_config(base), images, tmp_path)
    assert is_same_run(uninterrupted, tmp_path)


def test_the_start_adapter_may_be_moved_but_not_changed(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path
) -> None:
    first, out = tmp_path / "first", tmp_path / "run"
    shutil.copytree(uninterrupted / "adapter", first)
    run(make_config(base, start_adapter=str(first)), images, tmp_path / "complete")
    assert run(make_config(base, start_adapter=str(first)), images, out, should_stop=stop_after(9)).steps == 1
    moved = first.rename(tmp_path / "moved")
    other = tmp_path / "other"
    shutil.copytree(moved, other)
    weights = other / "adapter_model.safetensors"
    save_file({name: 2 * value for name, value in load_file(weights).items()}, weights)

    def check_refused(start_adapter: str, message: str) -> None:
        with pytest.raises(TuneError, match=message):
            run(make_config(base, start_adapter=start_adapter), images, out)

    check_refused(str(other), r"start_adapter was '\w{64}', now '\w{64}' \(the weights of the start adapter\)")
    check_refused("", r"start_adapter was '\w{64}', now None")
    path = out / "run.json"
    record = json.loads(path.read_text())
    assert record["source"]["start_adapter"] == str(first)
    # Older records have only the folder.
    del record["run"]["start_adapter"]
    record["run"]["config"]["start_adapter"] = str(first)
    path.write_text(json.dumps(record))
    check_refused("", f"start_adapter was '{first}', now None")
    assert run(make_config(base, start_adapter=str(moved)), images, out).steps == 6
    assert is_same_run(tmp_path / "complete", out)
    assert json.loads(path.read_text())["source"]["start_adapter"] == str(moved)


def test_a_finished_run_is_not_repeated(base: str, images: list[LabeledImage], uninterrupted: Path) -> None:
    lines: list[dict[str, Any]] = []
    again = run(make_config(base), images, uninterrupted, on_log=lines.append)
    assert (again.steps, lines) == (6, [])


def test_a_run_from_before_a_setting_existed_continues(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(uninterrupted, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["run"]["config"]["replay_dataset"], record["run"]["start_adapter"]
    path.write_text(json.dumps(record))
    assert run(make_config(base), images, tmp_path / "run").steps == 6


def test_a_diverged_run_keeps_the_best_checkpoint(
    base: str, images: list[LabeledImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def fail_at_step_3(self: Trainer, batches: Any, number: int) -> dict[str, float]:
        if number == 3:
            with torch.no_grad():
                next(iter(self.trainable.parameters.values())).fill_(float("nan"))
        return step(self, batches, number)

    monkeypatch.setattr(Trainer, "step", fail_at_step_3)
    with pytest.raises(
        DivergenceError,
        match=r"step 4: the loss is nan; use a lower learning_rate .* The best checkpoint, of step 2, is in .*adapter",
    ) as caught:
        run(make_config(base), images, tmp_path)
    result = caught.value.result
    assert (result.folder, result.steps, result.best_step) == (tmp_path / "adapter", 3, 2)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"
    assert all(v.isfinite().all() for v in load_file(tmp_path / "adapter" / "adapter_model.safetensors").values())
    monkeypatch.undo()
    assert run(make_config(base), images, tmp_path).steps == 6  # without the failure


def test_a_full_disk_loses_nothing(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = torch.save, 0

    def fail_once(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(28, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(torch, "save", fail_once)
    with pytest.raises(TuneError, match="No space left on device; fix this, then run the same command again"):
        run(make_config(base), images, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "failed"
    assert not (tmp_path / "state.partial").exists()
    monkeypatch.undo()
    run(make_config(base), images, tmp_path)
    assert is_same_run(uninterrupted, tmp_path)


def _run_with_small_files(
    config: TuneConfig, images: list[LabeledImage], out: Path, limit: int, messages: Connection
) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # larger files fail as on a full disk
    try:
        run(config, images, out)
    except TuneError as error:
        messages.send(str(error))


@pytest.mark.parametrize("file", ["adapter/adapter_model.safetensors", "state.pt"])
def test_a_file_that_cannot_be_written_is_reported(
    base: str, images: list[LabeledImage], uninterrupted: Path, tmp_path: Path, file: str
) -> None:
    limit = (uninterrupted / file).stat().st_size * 9 // 10
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_with_small_files, args=(make_config(base), images, tmp_path, limit, sender))
    child.start()
    sender.close()
    assert receiver.recv().endswith("fix this, then run the same command again")
    child.join()
    run(make_config(base), images, tmp_path)
    assert is_same_run(uninterrupted, tmp_path)


def test_a_truncated_line_of_the_log_is_ignored(uninterrupted: Path, tmp_path: Path) -> None:
    lines = (uninterrupted / "log.jsonl").read_text().splitlines()
    (tmp_path / "log.jsonl").write_text(f"{lines[0]}\n{lines[1][:9]}{lines[1]}\n{lines[2]}\n{lines[3][:-9]}")
    assert [line["step"] for line in read_log(tmp_path)] == [0, 4]
