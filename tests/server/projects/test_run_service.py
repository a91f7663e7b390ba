"""Fine-tune runs on a tiny model: what is queued, and what is refused. test_tuner executes runs."""

import json
from pathlib import Path

import pytest

from server.engine.engine import Engine
from server.projects.errors import InitialModelError, NoTrainingDataError
from server.store import InvalidStateError
from server.store.projects.ensembles import AdapterSum
from server.store.projects.errors import NotFoundError
from server.store.projects.records import ExecutionState
from tests.server.projects.project_setup import (
    QUICK,
    add_random_model,
    create_project,
    force_promotion,
    open_projects,
)
from tests.server.projects.scenes import draw_scenes


def test_a_project_without_corrections_cannot_be_trained(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = projects.create_project("empty", ("<OD>",), 0.5)
        with pytest.raises(NoTrainingDataError, match="of 0 corrected images"):
            projects.runs.start_run(project, QUICK, "Ada")
        assert not (projects.files.get_project_folder(project) / "runs").exists()


def test_settings_that_are_newer_than_a_run_had_their_defaults(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        store = projects.store
        old = store.runs.add_run(project, {"tasks": ["<OD>"], "lora_rank": 2}, "runs/old", "d" * 64, 3, 3, "Ada")
        store.runs.change_state(old, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
        store.runs.finish_run(project, old, {}, "5" * 64, ["<OD>"])
        (model,) = store.models.list_models(project)
        config = projects.runs.start_run(project, {"steps": 2}, "Ada", model.id).config
        assert {name: config[name] for name in ("lora_rank", "lora_alpha", "frozen_stages")} == {
            "lora_rank": 2, "lora_alpha": 32, "frozen_stages": 0,
        }  # fmt: skip
        projects.delete_project(project)


def test_models_that_a_run_cannot_start_from_are_refused(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project, other = create_project(projects), create_project(projects, "other")
        start_run = projects.runs.start_run
        one, two = (add_random_model(projects, project, seed) for seed in (1, 2))
        elsewhere = add_random_model(projects, other, 3)
        with pytest.raises(InvalidStateError, match=r"no model of emoji is promoted for <OD>: promote one first"):
            start_run(project, QUICK, "Ada", "champion")
        with pytest.raises(NotFoundError, match=f"no model {elsewhere.id}"):
            start_run(project, QUICK, "Ada", elsewhere.id)
        with pytest.raises(
            InitialModelError, match=f"model {one.id} was trained with lora_rank 2; leave lora_rank out"
        ):
            start_run(project, {**QUICK, "lora_rank": 4}, "Ada", one.id)
        with pytest.raises(
            InitialModelError, match=r"with lora_alpha 32, frozen_stages 0; leave lora_alpha and frozen_stages out"
        ):
            start_run(project, {**QUICK, "lora_alpha": 8, "frozen_stages": 4}, "Ada", one.id)
        runs = len(projects.store.runs.list_runs(project))
        summed = projects.models.create_ensemble(project, AdapterSum(combine="add", models=(one.id, two.id)))
        force_promotion(projects, project, summed)
        with pytest.raises(InitialModelError, match=f"model {summed.id} is an ensemble"):
            start_run(project, QUICK, "Ada", "champion")
        assert len(projects.store.runs.list_runs(project)) == runs
        folder = projects.files.get_project_folder(project) / "runs"
        assert len(list(folder.iterdir())) == runs  # refused runs leave no folder
        assert start_run(project, QUICK, "Ada", two.id).initial_model_id == two.id
        projects.delete_project(project)


def test_one_of_several_champions_has_to_be_named_by_its_id(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = projects.create_project("emoji", ("<OD>", "<REGION_PROPOSAL>"), 0.5)
        for scene in draw_scenes(6):
            projects.corrections.add_correction(project, scene.data, scene.boxes)
        start_run = projects.runs.start_run
        one = add_random_model(projects, project, 1)
        force_promotion(projects, project, one)
        # The base model answers the other task.
        assert start_run(project, QUICK, "Ada", "champion").initial_model_id == one.id
        two = add_random_model(projects, project, 2, "<REGION_PROPOSAL>")
        force_promotion(projects, project, two)
        with pytest.raises(InvalidStateError, match=f"those of the models {one.id}, {two.id}: name one by its id"):
            start_run(project, QUICK, "Ada", "champion")
        only = start_run(project, {**QUICK, "tasks": ["<REGION_PROPOSAL>"]}, "Ada", "champion")
        assert only.initial_model_id == two.id
        projects.delete_project(project)


def test_the_request_file_has_the_settings_and_the_dataset(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        run = projects.runs.start_run(project, QUICK, "Ada")
        request = json.loads(projects.files.get_run_folder(project, run).request.read_text())
        assert request["config"] == run.config
        assert run.config["tasks"] == ["<OD>"]
        assert (len(request["train"]), len(request["holdout"])) == (run.train_images, run.holdout_images)
