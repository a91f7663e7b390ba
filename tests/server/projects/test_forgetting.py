"""The forgetting evaluation of backtests, on a tiny model: on a dataset, or a reason why there is none."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from finetune import forgetting
from finetune.tuning.config import TuneConfig
from finetune.tuning.replay import load_replay
from labels.formats import FORMATS
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage
from labels.writing.image_options import ImagePlacement
from server.engine.engine import Engine
from server.projects.projects import Projects
from server.store.projects.ensembles import BoxFusion
from server.store.projects.records import Backtest, ExecutionState, ModelVersion, Project
from tests.server.helpers import wait_until
from tests.server.projects.project_setup import add_random_model, create_project, list_adapters, open_projects
from tests.server.projects.scenes import draw_scenes


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of fifteen images, of which three are held out from replay."""
    images = []
    for number, scene in enumerate(draw_scenes(15, seed=500)):
        path = tmp_path / f"{number}.png"
        path.write_bytes(scene.data)
        images.append(LabeledImage(path.name, "", 120, 100, scene.boxes, ImageFile(path)))
    FORMATS["coco"].write(images, tmp_path / "dataset", placement=ImagePlacement.COPY)
    return tmp_path / "dataset"


def run_backtest(projects: Projects, project: Project, model: ModelVersion, forgetting_images: int) -> Backtest:
    backtest = projects.models.start_backtest(project, model, "Ada", forgetting_images)
    wait_until(lambda: time.sleep(0.05) or projects.store.backtests.get_backtest(project, backtest.id).ended)
    return projects.store.backtests.get_backtest(project, backtest.id)


def test_forgetting_is_measured_on_the_dataset_that_was_replayed(engine: Engine, tmp_path: Path, dataset: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        one = add_random_model(projects, project, 1, std=0.3, replay_share=0.5, replay_dataset=str(dataset))
        two = add_random_model(projects, project, 2, modules=".*fc2", std=0.3)
        fused = projects.models.create_ensemble(project, BoxFusion(combine="fuse", models=(two.id, one.id)))
    with open_projects(tmp_path, engine) as projects:
        backtest = run_backtest(projects, project, one, 40)
        assert backtest.state is ExecutionState.DONE, backtest.reason
        assert backtest.forgetting["images"] == 3
        assert backtest.forgetting["metric"] == f"added corrections per 100 labels on 3 images of {dataset}"

        replay = load_replay(TuneConfig(base="tiny", replay_dataset=str(dataset)), None)
        assert replay is not None
        lost = []
        base = forgetting.measure_corrections(engine, replay.holdout, replay.classes)
        for model in (two, one):
            engine.load_adapter("member", projects.files.get_adapter_folder(project, model))
            own = forgetting.measure_corrections(engine, replay.holdout, replay.classes, "member")
            engine.unload_adapter("member")
            lost.append(own["<OD>"] - base["<OD>"])
        assert backtest.forgetting["lost"] == {"<OD>": pytest.approx(lost[1]), "mean": pytest.approx(lost[1])}
        # The mean of two members, on the dataset of the one that has a dataset.
        together = run_backtest(projects, project, fused, 40).forgetting
        assert together["lost"]["<OD>"] == pytest.approx(sum(lost) / 2)
        assert 0 not in {*lost, sum(lost)}
        # No more than the requested number of images.
        assert run_backtest(projects, project, one, 2).forgetting["images"] == 2

        shutil.rmtree(dataset)
        backtest = run_backtest(projects, project, one, 40)
        assert backtest.state is ExecutionState.DONE
        assert backtest.comparison is not None
        assert backtest.forgetting["reason"].startswith(
            "there are no images to measure forgetting on: there is no dataset"
        )
        projects.delete_project(project)


def test_a_failed_forgetting_evaluation_keeps_the_comparison(
    engine: Engine, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(5, "Input/output error", "image.png")

    monkeypatch.setattr(forgetting, "measure_corrections", fail)
    with open_projects(tmp_path, engine) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1, replay_share=0.5, replay_dataset=str(dataset))
        backtest = run_backtest(projects, project, model, 40)
        assert (backtest.state, backtest.reason) == (ExecutionState.DONE, "")
        assert backtest.comparison is not None
        assert backtest.forgetting == {
            "reason": "the forgetting evaluation failed: an internal error; the server's log contains it"
        }
        assert list_adapters(engine) == set()
        projects.delete_project(project)


def test_without_replayed_images_there_is_a_reason(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        queued = projects.models.start_backtest(project, model, "Ada", 40)
        assert queued.forgetting == {"forgetting_images": 40}
    with open_projects(tmp_path, engine) as projects:
        backtest = run_backtest(projects, project, model, 0)
        assert (backtest.state, backtest.forgetting) == (ExecutionState.DONE, {})
        first = projects.store.backtests.list_backtests(project)[0]
        assert first.comparison is not None
        assert first.forgetting.keys() == {"reason"}
        assert "has no dataset of the base model's own domain (`replay_dataset`)" in first.forgetting["reason"]
        projects.delete_project(project)
