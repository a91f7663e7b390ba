"""What a backtest says that a model has forgotten, on a tiny model: by a dataset, or that nothing tells it."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from finetune import forgetting
from finetune.tuning import replay
from finetune.tuning.config import TuneConfig
from labels.formats import coco
from labels.image_files import ImageFile
from labels.labeled_image import LabeledImage
from server.engine.engine import Engine
from server.projects.projects import Projects
from server.store.projects.ensembles import BoxFusion
from server.store.projects.records import Backtest, ModelVersion, Project, RunState
from tests.server.helpers import until
from tests.server.projects.project_setup import corrected, loaded, made, opened
from tests.server.projects.scenes import scenes


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A dataset of fifteen pictures, of which three are kept back."""
    examples = []
    for number, scene in enumerate(scenes(15, seed=500)):
        path = tmp_path / f"{number}.png"
        path.write_bytes(scene.data)
        examples.append(LabeledImage(path.name, "", 120, 100, scene.boxes, ImageFile(path)))
    return coco.write(examples, tmp_path / "world").parent


def judged(projects: Projects, project: Project, model: ModelVersion, most: int) -> Backtest:
    return ended(projects, project, projects.test(project, model, "Ada", most))


def ended(projects: Projects, project: Project, test: Backtest) -> Backtest:
    until(lambda: time.sleep(0.05) or projects.registry.backtest(project, test.id).ended)
    return projects.registry.backtest(project, test.id)


def test_of_another_base_the_dataset_tells_that_was_replayed(tiny: Engine, tmp_path: Path, world: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        one = made(projects, project, 1, std=0.3, replay=0.5, replay_from=str(world))
        two = made(projects, project, 2, modules=".*fc2", std=0.3)
        fused = projects.combine(project, BoxFusion(combine="fuse", models=(two.id, one.id)))
    with opened(tmp_path, tiny) as projects:
        tested = judged(projects, project, one, 40)
        assert tested.state is RunState.DONE, tested.reason
        assert tested.forgetting["pictures"] == 3
        assert tested.forgetting["what"] == f"corrections per 100 labels more on 3 pictures of {world}"

        kept = replay.world(TuneConfig(base="tiny", replay_from=str(world)))
        assert kept is not None
        added = []
        base = forgetting.probe_dataset(tiny, kept.probe, kept.labels)
        for model in (two, one):
            tiny.load_adapter("asked", projects.folder / project.folder / model.folder)
            own = forgetting.probe_dataset(tiny, kept.probe, kept.labels, "asked")
            tiny.unload_adapter("asked")
            added.append(own["<OD>"] - base["<OD>"])
        assert tested.forgetting["lost"] == {"<OD>": pytest.approx(added[1]), "mean": pytest.approx(added[1])}
        # Of two that answer together the mean, by the dataset of the one that has one.
        together = judged(projects, project, fused, 40).forgetting
        assert together["lost"]["<OD>"] == pytest.approx(sum(added) / 2)
        assert 0 not in {*added, sum(added)}

        shutil.rmtree(world)
        tested = judged(projects, project, one, 40)
        assert tested.state is RunState.DONE
        assert tested.figures is not None
        assert tested.forgetting["reason"].startswith("there is nothing to probe by: there is no dataset")
        projects.delete(project)


def test_a_probe_that_fails_leaves_the_figures(
    tiny: Engine, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any) -> None:
        raise OSError(5, "Input/output error", "picture.png")

    monkeypatch.setattr(forgetting, "probe_dataset", unreadable)
    with opened(tmp_path, tiny) as projects:
        project = corrected(projects)
        model = made(projects, project, 1, replay=0.5, replay_from=str(world))
        tested = judged(projects, project, model, 40)
        assert (tested.state, tested.reason) == (RunState.DONE, "")
        assert tested.figures is not None
        assert tested.forgetting == {"reason": "the probe failed: [Errno 5] Input/output error: 'picture.png'"}
        assert loaded(tiny) == set()
        projects.delete(project)


def test_what_an_older_server_queued_is_probed(tiny: Engine, tmp_path: Path, world: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        model = made(projects, project, 1, replay=0.5, replay_from=str(world))
        test = projects.test(project, model, "Ada", 40)
        with projects.store.job_store.database.begin_write() as connection:
            connection.exec_driver_sql("""UPDATE backtests SET forgetting = '{"scenes": 2}'""")
    with opened(tmp_path, tiny) as projects:
        tested = ended(projects, project, test)
        assert tested.forgetting["pictures"] == 2, tested.forgetting
        projects.delete(project)


def test_where_nothing_was_replayed_there_is_nothing_to_tell_by(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        model = made(projects, project, 1)
        assert projects.test(project, model, "Ada", 40).forgetting == {"probe": 40}
    with opened(tmp_path, tiny) as projects:
        tested = judged(projects, project, model, 0)
        assert (tested.state, tested.forgetting) == (RunState.DONE, {})
        first = projects.registry.backtests(project)[0]
        assert first.figures is not None
        assert first.forgetting.keys() == {"reason"}
        assert "named no dataset of the base's own world (`replay_from`)" in first.forgetting["reason"]
        projects.delete(project)
