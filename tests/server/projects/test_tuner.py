"""Fine-tune runs on a tiny model are executed: stopped and resumed, diverging, and from an initial model."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from labels.formats import FORMATS
from labels.labeled_image import LabeledImage
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.projects import tuner
from server.projects.errors import NoTrainingDataError
from server.projects.project_files import RunFolder
from server.projects.projects import Projects
from server.store import InvalidStateError
from server.store.projects.records import ExecutionState, Project, Run
from tests.server.helpers import ROOT, TIMEOUT, wait_until
from tests.server.projects.project_setup import (
    QUICK,
    TUNE_COMMAND,
    create_project,
    force_promotion,
    open_projects,
)

pytestmark = pytest.mark.slow
LONG = {**QUICK, "steps": 4000, "evaluate_every": 4000}


@pytest.fixture(autouse=True)
def _normal_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that runs other tests too, a process with the lowest priority would get no time."""
    monkeypatch.setattr(tuner, "NICENESS", 0)


def read_log(folder: RunFolder) -> str:
    path = folder.training / "log.jsonl"
    return path.read_text() if path.exists() else ""


def read_saved_step(folder: RunFolder) -> int:
    """Returns the step that a run continues from."""
    return int(torch.load(folder.training / "state.pt", weights_only=True)["step"])


def wait_for_run(projects: Projects, project: Project, run: Run) -> Run:
    wait_until(lambda: time.sleep(0.2) or projects.store.runs.get_run(project, run.id).ended)
    return projects.store.runs.get_run(project, run.id)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def test_a_run_ends_with_its_server_however_that_ends_and_continues_with_the_next(
    engine: Engine, tmp_path: Path
) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        run = projects.runs.start_run(project, LONG, "Ada")
        folder = projects.files.get_run_folder(project, run)
    command = [*TUNE_COMMAND, str(folder.path), "0"]
    server_code = (
        "import subprocess, time\n"
        f"p = subprocess.Popen({command!r}, stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    server = subprocess.Popen([TUNE_COMMAND[0], "-c", server_code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    wait_until(lambda: time.sleep(0.05) or read_log(folder).count("\n") > 1)
    server.send_signal(signal.SIGKILL)
    server.wait(TIMEOUT)
    wait_until(lambda: time.sleep(0.05) or not is_alive(pid), 30)
    before = read_log(folder)
    assert read_saved_step(folder) >= 10
    with open_projects(tmp_path, engine) as projects:
        wait_until(lambda: time.sleep(0.05) or len(read_log(folder)) > len(before))
        assert read_log(folder).startswith(before)  # no step is repeated
        assert projects.store.runs.get_run(project, run.id).state is ExecutionState.RUNNING
    before = read_log(folder)
    assert read_saved_step(folder) >= json.loads(before.splitlines()[-1])["step"]
    time.sleep(0.5)
    assert read_log(folder) == before
    with open_projects(tmp_path, engine, start=False) as projects:
        run = projects.store.runs.get_run(project, run.id)
        assert projects.runs.cancel_run(project, run).state is ExecutionState.CANCELLED
        assert projects.store.models.list_models(project) == []


def test_a_failed_run_has_its_reason_and_can_be_resumed(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        run = projects.runs.start_run(project, QUICK, "Ada")
        blocked = projects.files.get_run_folder(project, run).training
        blocked.write_text("a file where a folder must be")  # like a broken disk
        projects.start()
        failed = wait_for_run(projects, project, run)
        assert failed.state is ExecutionState.FAILED
        assert failed.reason.startswith("training: ")
        assert str(tmp_path) not in failed.reason
        projects.close()
        assert projects.runs.resume_run(project, failed).state is ExecutionState.QUEUED


DIVERGE = """
import sys
if "server.cli.tune_process" in sys.orig_argv:
    import torch
    from finetune.tuning.trainer import Trainer
    step = Trainer.step
    def diverge(self, batches, number):
        if number == {number}:
            with torch.no_grad():
                next(iter(self.trainable.parameters.values())).fill_(float("nan"))
        return step(self, batches, number)
    Trainer.step = diverge
"""


def run_until_divergence(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> tuple[Project, Run]:
    """Returns a run whose loss became NaN at a step, counted from 0."""
    (folder / "sitecustomize.py").write_text(DIVERGE.format(number=step))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    with open_projects(folder, engine) as projects:
        project = create_project(projects)
        run = projects.runs.start_run(project, QUICK, "Ada")
        return project, wait_for_run(projects, project, run)


def test_the_best_step_before_a_divergence_becomes_a_model(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = run_until_divergence(engine, tmp_path, monkeypatch, 3)
    assert run.state is ExecutionState.FAILED
    assert re.fullmatch(
        r"step 4: the loss is nan; use a lower learning_rate \(0.001\) and fine-tune again. "
        r"The best step before it, 2, is saved as a model",
        run.reason,
    )
    with open_projects(tmp_path, engine) as projects:
        (model,) = projects.store.models.list_models(project)
        assert (model.run_id, model.task, model.metrics["best_step"]) == (run.id, "<OD>", 2)
        assert projects.store.runs.list_model_ids([run]) == {run.id: [model.id]}
        with pytest.raises(InvalidStateError, match=f"saved its best step as model {model.id}"):
            projects.runs.resume_run(project, run)
        number = projects.models.start_backtest(project, model, "Ada").id
        wait_until(lambda: time.sleep(0.05) or projects.store.backtests.get_backtest(project, number).ended)
        backtest = projects.store.backtests.get_backtest(project, number)
        assert backtest.state is ExecutionState.DONE, backtest.reason
        assert projects.runs.start_run(project, QUICK, "Ada", model.id).initial_model_id == model.id
        projects.delete_project(project)


def test_a_divergence_before_the_first_good_step_makes_no_model(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = run_until_divergence(engine, tmp_path, monkeypatch, 1)
    assert run.state is ExecutionState.FAILED
    assert "step 2: the loss is nan" in run.reason
    assert "No step before it was better than the initial model" in run.reason
    with open_projects(tmp_path, engine, start=False) as projects:
        assert projects.store.models.list_models(project) == []
        assert projects.runs.resume_run(project, run).state is ExecutionState.QUEUED
        projects.delete_project(project)


def test_a_model_other_than_the_seedling_replays_a_dataset(engine: Engine, tmp_path: Path) -> None:
    scenes = [draw_scene(seed, objects=(1, 2), words=(0, 0)) for seed in range(3)]
    images = [
        LabeledImage(
            str(i), "", s.width, s.height, tuple(Box(label="x", box=each.box) for each in s.objects),
            lambda s=s: s.image,  # type: ignore[misc]
        )
        for i, s in enumerate(scenes)
    ]  # fmt: skip
    FORMATS["coco"].write(images, tmp_path / "world", placement=ImagePlacement.COPY)
    dataset = tmp_path / "world/annotations/instances_default.json"
    labels = json.loads(dataset.read_text())
    labels["annotations"].append({**labels["annotations"][0], "id": 999, "bbox": [5, 5, 0, 0], "segmentation": []})
    dataset.write_text(json.dumps(labels))
    anchored = {**QUICK, "replay_share": 0.5, "anchor": "kl"}
    with open_projects(tmp_path, engine) as projects:
        project = create_project(projects)
        with pytest.raises(NoTrainingDataError, match="there is nothing to replay for this base"):
            projects.runs.start_run(project, anchored, "Ada")
        run = projects.runs.start_run(project, {**anchored, "replay_dataset": str(dataset)}, "Ada")
        missing = projects.runs.start_run(project, {**anchored, "replay_dataset": str(tmp_path / "none")}, "Ada")
        failed = wait_for_run(projects, project, missing)
        assert failed.state is ExecutionState.FAILED
        assert failed.reason.startswith(f"there is no dataset '{tmp_path}/none'")
        assert projects.store.runs.get_run(project, run.id).state is ExecutionState.DONE
        folder = projects.files.get_run_folder(project, run).training
        record = json.loads((folder / "run.json").read_text())
        assert record["run"]["replayed"]
        assert record["source"] == {
            "dataset": "project:emoji", "holdout": None, "unusable": 1, "start_adapter": "",
        }  # fmt: skip
        assert "no area" in (folder / "unusable.txt").read_text()


def test_a_run_starts_from_the_champion_also_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine) as projects:
        project = create_project(projects)
        first = projects.runs.start_run(project, QUICK, "Ada")
        assert wait_for_run(projects, project, first).state is ExecutionState.DONE
        (model,) = projects.store.models.list_models(project)
        assert (first.initial_model_id, model.initial_model_id) == (None, None)
    with open_projects(tmp_path, engine, start=False) as projects:
        force_promotion(projects, project, model)
        settings = {key: value for key, value in QUICK.items() if key != "lora_rank"} | {"learning_rate": 1e-12}
        second = projects.runs.start_run(project, settings, "Ada", "champion")
        assert second.initial_model_id == model.id
        assert second.config["lora_rank"] == QUICK["lora_rank"]
    with open_projects(tmp_path, engine) as projects:
        assert wait_for_run(projects, project, second).state is ExecutionState.DONE
        tuned = projects.store.models.list_models(project)[-1]
        assert (tuned.run_id, tuned.initial_model_id) == (second.id, model.id)
        before, after = (
            load_file(projects.files.get_adapter_folder(project, each) / "adapter_model.safetensors")
            for each in (model, tuned)
        )
        assert any(value.any() for name, value in before.items() if "lora_B" in name)  # it has learned something
        for name, value in before.items():
            assert torch.allclose(after[name], value, atol=1e-6), name
        projects.delete_project(project)


def test_a_run_continues_from_its_initial_model_after_the_folder_was_moved(engine: Engine, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with open_projects(here, engine) as projects:
        project = create_project(projects)
        first = projects.runs.start_run(project, QUICK, "Ada")
        assert wait_for_run(projects, project, first).state is ExecutionState.DONE
        (model,) = projects.store.models.list_models(project)
        run = projects.runs.start_run(project, LONG, "Ada", model.id)
        folder = projects.files.get_run_folder(project, run)
        wait_until(lambda: time.sleep(0.05) or read_log(folder).count("\n") > 1)
    before = read_log(folder)
    here.rename(there)
    with open_projects(there, engine) as projects:
        folder = projects.files.get_run_folder(project, run)
        wait_until(lambda: len(read_log(folder)) > len(before) or projects.store.runs.get_run(project, run.id).ended)
        resumed = projects.store.runs.get_run(project, run.id)
        assert resumed.state is ExecutionState.RUNNING, resumed.reason
        assert read_log(folder).startswith(before)
        projects.delete_project(project)


def test_a_run_that_changes_nothing_has_no_gain_and_makes_no_model_unless_asked(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine) as projects:
        project = create_project(projects, images=170)  # enough for ten validation images
        unchanged = {**QUICK, "metric": "corrections", "learning_rate": 1e-12}
        for keep in (False, True):
            run = projects.runs.start_run(project, unchanged, "Ada", keep=keep)
            ended = wait_for_run(projects, project, run)
            assert ended.state is ExecutionState.NO_GAIN
            assert "What to try: more steps: each image was seen 0." in ended.reason
            assert projects.files.get_run_folder(project, run).adapter.exists() is keep
            assert len(projects.store.models.list_models(project)) == keep
            assert {each["known"] for each in projects.runs.read_classes(project, run)} <= {False, None}
        projects.delete_project(project)
