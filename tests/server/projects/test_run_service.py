"""Runs of projects on a tiny model: killed and gone on with, from which model they begin, and what they leave."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from labels.formats import coco
from labels.labeled_image import LabeledImage
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from server.engine.engine import Engine
from server.projects import fine_tune_process, tuner
from server.store import InvalidStateError
from server.store.projects.ensembles import AdapterSum
from server.store.projects.records import InitialModelError, NotFoundError, NoTrainingDataError, Project, Run, RunState
from tests.server.helpers import PATIENCE, ROOT, until
from tests.server.projects.project_setup import QUICK, corrected, made, opened, promote
from tests.server.projects.scenes import scenes


@pytest.fixture(autouse=True)
def as_nice_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has other tests to run leaves nothing for the lowest priority."""
    monkeypatch.setattr(tuner, "NICENESS", 0)


def log(folder: Path) -> str:
    path = folder / fine_tune_process.RUN / "log.jsonl"
    return path.read_text() if path.exists() else ""


def kept(folder: Path) -> int:
    """The step that a run goes on from."""
    return int(torch.load(folder / fine_tune_process.RUN / "state.pt", weights_only=True)["step"])


@pytest.mark.slow
def test_a_run_ends_with_its_server_however_that_ends_and_goes_on_with_the_next(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        run = projects.tune(project, {**QUICK, "steps": 4000, "evaluate": 4000}, "Ada")
        folder, pictures = projects.tuner.of(project, run), projects.folder / project.folder / "pictures"
    begun = [sys.executable, "-m", "server.projects.fine_tune_process", str(folder), str(pictures), "0"]
    start = (
        "import subprocess, time\n"
        f"p = subprocess.Popen({begun!r}, stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    server = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    number = int(server.stdout.readline())
    until(lambda: time.sleep(0.05) or log(folder).count("\n") > 1)
    server.send_signal(signal.SIGKILL)
    server.wait(PATIENCE)
    until(lambda: time.sleep(0.05) or not _alive(number), 30)
    before = log(folder)
    assert kept(folder) >= 10
    with opened(tmp_path, tiny) as projects:
        until(lambda: time.sleep(0.05) or len(log(folder)) > len(before))
        assert log(folder).startswith(before)  # nothing is done twice
        assert projects.registry.run(project, run.id).state is RunState.RUNNING
    before = log(folder)
    assert kept(folder) >= json.loads(before.splitlines()[-1])["step"]
    time.sleep(0.5)
    assert log(folder) == before
    with opened(tmp_path, tiny, start=False) as projects:
        assert projects.cancel(project, projects.registry.run(project, run.id)).state is RunState.CANCELLED
        assert projects.registry.models(project) == []


def _alive(number: int) -> bool:
    status = Path(f"/proc/{number}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.slow
def test_why_a_run_failed_is_told_and_it_can_be_resumed(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        run = projects.tune(project, QUICK, "Ada")
        blocked = projects.tuner.of(project, run) / fine_tune_process.RUN
        blocked.write_text("a file where a folder must be")  # as a disk that fails
        projects.start()
        until(lambda: time.sleep(0.2) or projects.registry.run(project, run.id).state is RunState.FAILED)
        failed = projects.registry.run(project, run.id)
        assert str(blocked) in failed.reason
        projects.tuner.close()
        assert projects.resume(project, failed).state is RunState.QUEUED


POISON = """
import sys
if "server.projects.fine_tune_process" in sys.orig_argv:
    import torch
    from finetune.tuning.trainer import Trainer
    step = Trainer.step
    def poisoned(self, lessons, number):
        if number == {number}:
            with torch.no_grad():
                next(iter(self.learner.learned.values())).fill_(float("nan"))
        return step(self, lessons, number)
    Trainer.step = poisoned
"""


def poisoned(tiny: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> tuple[Project, Run]:
    """A run whose loss was no number at a step, counted from 0."""
    (folder / "sitecustomize.py").write_text(POISON.format(number=number))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    with opened(folder, tiny) as projects:
        project = corrected(projects)
        run = projects.tune(project, QUICK, "Ada")
        until(lambda: time.sleep(0.2) or projects.registry.run(project, run.id).ended)
        return project, projects.registry.run(project, run.id)


@pytest.mark.slow
def test_what_was_good_before_a_loss_that_is_no_number_is_a_model(
    tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = poisoned(tiny, tmp_path, monkeypatch, 3)
    assert run.state is RunState.FAILED
    assert re.fullmatch(
        r"step 4: the loss is nan; lower the rate \(0.001\) and tune again. What was good at step 2 is kept as a model",
        run.reason,
    )
    with opened(tmp_path, tiny) as projects:
        (model,) = projects.registry.models(project)
        assert (model.run, model.task, model.metrics["best_step"]) == (run.id, "<OD>", 2)
        assert projects.registry.made([run]) == {run.id: [model.id]}
        with pytest.raises(InvalidStateError, match=f"kept what was good as model {model.id}"):
            projects.resume(project, run)
        test = projects.test(project, model, "Ada")
        until(lambda: time.sleep(0.05) or projects.registry.backtest(project, test.id).ended)
        tested = projects.registry.backtest(project, test.id)
        assert tested.state is RunState.DONE, tested.reason
        assert projects.tune(project, QUICK, "Ada", model.id).start == model.id
        projects.delete(project)


@pytest.mark.slow
def test_of_a_loss_that_was_no_number_before_anything_was_good_there_is_no_model(
    tiny: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, run = poisoned(tiny, tmp_path, monkeypatch, 1)
    assert run.state is RunState.FAILED
    assert "step 2: the loss is nan" in run.reason
    assert "nothing was kept that is better than its start" in run.reason
    with opened(tmp_path, tiny, start=False) as projects:
        assert projects.registry.models(project) == []
        assert projects.resume(project, run).state is RunState.QUEUED
        projects.delete(project)


def test_nothing_corrected_teaches_nothing(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = projects.create("empty", ("<OD>",), 0.5)
        with pytest.raises(NoTrainingDataError, match="of 0 corrected pictures"):
            projects.tune(project, QUICK, "Ada")
        assert not (projects.folder / project.folder / "runs").exists()


@pytest.mark.slow
def test_another_base_replays_a_dataset_that_is_named(tiny: Engine, tmp_path: Path) -> None:
    drawn = [draw_scene(seed, objects=(1, 2), words=(0, 0)) for seed in range(3)]
    examples = [
        LabeledImage(
            str(i), "", s.width, s.height, tuple(Box(label="x", box=t.box) for t in s.objects), lambda s=s: s.image
        )  # type: ignore[misc]
        for i, s in enumerate(drawn)
    ]
    world = coco.write(examples, tmp_path / "world")
    labels = json.loads(world.read_text())
    labels["annotations"].append({**labels["annotations"][0], "id": 999, "bbox": [5, 5, 0, 0]})
    world.write_text(json.dumps(labels))
    anchored = {**QUICK, "replay": 0.5, "anchor": "kl"}
    with opened(tmp_path, tiny) as projects:
        project = corrected(projects)
        with pytest.raises(NoTrainingDataError, match="nothing is at hand to replay for this base"):
            projects.tune(project, anchored, "Ada")
        run = projects.tune(project, {**anchored, "replay_from": str(world)}, "Ada")
        lost = projects.tune(project, {**anchored, "replay_from": str(tmp_path / "none")}, "Ada")
        until(lambda: time.sleep(0.2) or projects.registry.run(project, lost.id).state is RunState.FAILED)
        assert projects.registry.run(project, lost.id).reason.startswith(f"there is no dataset '{tmp_path}/none'")
        assert projects.registry.run(project, run.id).state is RunState.DONE
        folder = projects.tuner.of(project, run) / fine_tune_process.RUN
        written = json.loads((folder / "run.json").read_text())
        assert written["run"]["replayed"]
        assert written["source"] == {"dataset": "project:emoji", "held": None, "unusable": 1, "start": ""}
        assert "no area" in (folder / "unusable.txt").read_text()


@pytest.mark.slow
def test_a_run_goes_on_from_the_champion_also_after_a_restart(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny) as projects:
        project = corrected(projects)
        first = projects.tune(project, QUICK, "Ada")
        until(lambda: time.sleep(0.2) or projects.registry.run(project, first.id).state is RunState.DONE)
        (model,) = projects.registry.models(project)
        assert (first.start, model.start) == (None, None)
    with opened(tmp_path, tiny, start=False) as projects:
        promote(projects, project, model)
        still = {key: value for key, value in QUICK.items() if key != "rank"} | {"rate": 1e-12}
        second = projects.tune(project, still, "Ada", "champion")
        assert second.start == model.id
        assert second.config["rank"] == QUICK["rank"]
    with opened(tmp_path, tiny) as projects:
        until(lambda: time.sleep(0.2) or projects.registry.run(project, second.id).ended)
        assert projects.registry.run(project, second.id).state is RunState.DONE
        made = projects.registry.models(project)[-1]
        assert (made.run, made.start) == (second.id, model.id)
        before, after = (
            load_file(projects.folder / project.folder / each.folder / "adapter_model.safetensors")
            for each in (model, made)
        )
        assert any(value.any() for name, value in before.items() if "lora_B" in name)  # it had learned
        for name, value in before.items():
            assert torch.allclose(after[name], value, atol=1e-6), name
        projects.delete(project)


@pytest.mark.slow
def test_a_run_goes_on_from_a_model_though_the_projects_were_moved(tiny: Engine, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with opened(here, tiny) as projects:
        project = corrected(projects)
        first = projects.tune(project, QUICK, "Ada")
        until(lambda: time.sleep(0.2) or projects.registry.run(project, first.id).state is RunState.DONE)
        (model,) = projects.registry.models(project)
        run = projects.tune(project, {**QUICK, "steps": 4000, "evaluate": 4000}, "Ada", model.id)
        folder = projects.tuner.of(project, run)
        until(lambda: time.sleep(0.05) or log(folder).count("\n") > 1)
    before = log(folder)
    here.rename(there)
    with opened(there, tiny) as projects:
        folder = projects.tuner.of(project, run)
        until(lambda: len(log(folder)) > len(before) or projects.registry.run(project, run.id).ended)
        gone_on = projects.registry.run(project, run.id)
        assert gone_on.state is RunState.RUNNING, gone_on.reason
        assert log(folder).startswith(before)
        projects.delete(project)


def test_settings_that_came_later_than_a_run_had_their_defaults(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        old = projects.registry.add_run(project, {"tasks": ["<OD>"], "rank": 2}, "runs/old", "d" * 64, 3, 3, "Ada")
        projects.registry.turn_run(old, RunState.RUNNING, (RunState.QUEUED,))
        projects.registry.finish(project, old, {}, "5" * 64, ["<OD>"])
        (model,) = projects.registry.models(project)
        config = projects.tune(project, {"steps": 2}, "Ada", model.id).config
        assert {name: config[name] for name in ("rank", "alpha", "frozen_stages")} == {
            "rank": 2, "alpha": 32, "frozen_stages": 0,
        }  # fmt: skip
        projects.delete(project)


def test_what_no_run_can_go_on_from_is_refused(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project, other = corrected(projects), corrected(projects, "other")
        one, two = (made(projects, project, seed) for seed in (1, 2))
        elsewhere = made(projects, other, 3)
        with pytest.raises(InvalidStateError, match=r"no model of emoji is promoted for <OD>: promote one first"):
            projects.tune(project, QUICK, "Ada", "champion")
        with pytest.raises(NotFoundError, match=f"no model {elsewhere.id}"):
            projects.tune(project, QUICK, "Ada", elsewhere.id)
        with pytest.raises(InitialModelError, match=f"model {one.id} was made with rank 2; leave rank out"):
            projects.tune(project, {**QUICK, "rank": 4}, "Ada", one.id)
        with pytest.raises(
            InitialModelError, match=r"with alpha 32, frozen_stages 0; leave alpha and frozen_stages out"
        ):
            projects.tune(project, {**QUICK, "alpha": 8, "frozen_stages": 4}, "Ada", one.id)
        runs = len(projects.registry.runs(project))
        summed = projects.combine(project, AdapterSum(combine="add", models=(one.id, two.id)))
        promote(projects, project, summed)
        with pytest.raises(InitialModelError, match=f"model {summed.id} is combined of others"):
            projects.tune(project, QUICK, "Ada", "champion")
        assert len(projects.registry.runs(project)) == runs
        assert len(list((projects.folder / project.folder / "runs").iterdir())) == runs  # nothing is left of them
        assert projects.tune(project, QUICK, "Ada", two.id).start == two.id
        projects.delete(project)


def test_of_several_champions_one_is_named_by_its_id(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = projects.create("emoji", ("<OD>", "<REGION_PROPOSAL>"), 0.5)
        for scene in scenes(6):
            projects.correct(project, scene.data, scene.boxes)
        one = made(projects, project, 1)
        promote(projects, project, one)
        assert projects.tune(project, QUICK, "Ada", "champion").start == one.id  # for the other task the base answers
        two = made(projects, project, 2, "<REGION_PROPOSAL>")
        promote(projects, project, two)
        with pytest.raises(InvalidStateError, match=f"those of the models {one.id}, {two.id}: name one by its id"):
            projects.tune(project, QUICK, "Ada", "champion")
        only = projects.tune(project, {**QUICK, "tasks": ["<REGION_PROPOSAL>"]}, "Ada", "champion")
        assert only.start == two.id
        projects.delete(project)


def test_the_wanted_file_says_all(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        run = projects.tune(project, QUICK, "Ada")
        wanted = json.loads((projects.tuner.of(project, run) / fine_tune_process.WANTED).read_text())
        assert wanted["config"] == run.config
        assert run.config["tasks"] == ["<OD>"]
        assert (len(wanted["train"]), len(wanted["held"])) == (run.taught, run.held)
