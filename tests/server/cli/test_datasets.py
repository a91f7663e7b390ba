"""What a server keeps, as a dataset of `florist tune` and `florist evaluate`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.verification import keep_readable
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from server.cli.datasets import DatasetOpener
from server.cli.main import app
from server.projects import project_dataset
from server.projects.projects import Projects
from server.store import JobStore
from server.store.projects.records import Project
from tests.server.engine.tiny import save_checkpoint, create_tiny_model
from tests.server.projects.scenes import scenes

QUICK = "steps: 1\npictures: 2\nprompts: 1\nmetric: loss\nrank: 2\n"


def florist(*arguments: object, **environment: str) -> Result:
    said = {"COLUMNS": "200", "FLORIST_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true", **environment}
    ended = CliRunner().invoke(app, [*map(str, arguments)], env=said)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Projects]:
    """Its folders and database, in use; one project, with six corrected pictures."""
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("FLORIST_JOBS_FOLDER", str(tmp_path / "jobs"))
    monkeypatch.setenv("FLORIST_PROJECTS_FOLDER", str(tmp_path / "projects"))
    monkeypatch.delenv("FLORIST_DATABASE_URL", raising=False)
    with JobStore(f"sqlite:///{tmp_path / 'jobs' / 'florist.db'}") as store:
        projects = Projects(tmp_path / "projects", store)
        project = projects.store.create(Project(0, "signs", "b" * 64, ("<OD>",), 0.5, "project-1", 0.0))
        for scene in scenes(6):
            projects.correct(project, scene.data, scene.boxes, name="a scene")
        yield projects
        projects.close()


def test_a_project_is_read_beside_its_server_and_holds_out_what_that_does(server: Projects) -> None:
    project = server.store.projects.project_store()[0]
    dataset = DatasetOpener()("project:signs")
    found = project_dataset.of(project, server.store.newest(project), server._pictures(project))
    assert dataset.training_images == found.train
    assert dataset.evaluation_images == found.held
    assert len(dataset.images) == 6
    checked = keep_readable(dataset)
    assert checked.holdout == dataset.holdout
    first = checked.training_images[0]
    data = server._pictures(project).path(first.name).read_bytes()
    server.correct(project, data, [Box(label="mended", box=(1, 2, 30, 40))])  # the server goes on
    again = next(example for example in DatasetOpener()("project:signs").images if example.name == first.name)
    assert [note.label for note in again.annotations] == ["mended"]


@pytest.mark.slow
def test_a_tune_teaches_a_project_and_its_held_out_pictures_judge(server: Projects, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", create_tiny_model())
    (tmp_path / "tune.yaml").write_text(QUICK)
    ended = florist(
        "tune", "project:signs", "--out", tmp_path / "run", "--config", tmp_path / "tune.yaml", "--base", base
    )
    assert ended.exit_code == 0, ended.output
    dataset = DatasetOpener()("project:signs")
    assert f"{len(dataset.training_images)} pictures taught, {len(dataset.holdout)} held out" in ended.stdout
    ended = florist("evaluate", base, "project:signs", "--adapter", tmp_path / "run" / "adapter", "--task", "<OD>")
    assert ended.exit_code == 0, ended.output
    assert f"by the {len(dataset.holdout)} of 6 pictures that are held out" in ended.stderr


@pytest.mark.parametrize(
    ("name", "environment", "said"),
    [
        ("project:birds", {}, "there is no project:birds; there are: signs"),
        ("project:signs", {"FLORIST_PROJECTS_FOLDER": ""}, "set FLORIST_PROJECTS_FOLDER and FLORIST_JOBS_FOLDER"),
        ("project:signs", {"FLORIST_JOBS_FOLDER": "/nowhere"}, "/nowhere/florist.db cannot be read"),
        ("project:signs", {"FLORIST_PROJECTS_FOLDER": "/nowhere"}, "/nowhere/home: No such file or directory"),
        ("job:1", {}, "there is no job 1"),
        ("job:one", {}, "job:one names no job: write its number, such as job:3"),
        (
            "job:1",
            {"FLORIST_JOBS_FOLDER": "", "FLORIST_PROJECTS_FOLDER": ""},
            "set FLORIST_JOBS_FOLDER or FLORIST_DATA",
        ),
    ],
)
def test_what_is_not_there_is_told(
    server: Projects, tmp_path: Path, name: str, environment: dict[str, str], said: str
) -> None:
    for command in (("tune", name, "--out", tmp_path / "run"), ("evaluate", "seedling", name)):
        ended = florist(*command, **environment)
        assert ended.exit_code == 2
        assert said in ended.stderr


def test_a_database_of_another_version_is_left_alone(server: Projects) -> None:
    with server.store.job_store.database.begin_write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(DatasetError, match="written by another version of florist"):
        DatasetOpener()("project:signs")


def test_a_jobs_labels_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = tmp_path / "pictures"
    out = pictures / "out"  # its own drawings are none of the job's pictures
    pictures.mkdir()
    for seed in range(3):
        draw_scene(9000 + seed, objects=(1, 2)).image.save(pictures / f"{seed}.png")
    Image.new("RGB", (40, 40)).save(pictures / "nothing.png")
    steps = "  - {id: objects, task: <OD>}\n  - {id: names, task: <REGION_TO_CATEGORY>, each: objects}\n"
    (tmp_path / "things.yaml").write_text(f"name: things\nsteps:\n{steps}")
    assert florist("label", pictures, "--recipe", tmp_path / "things.yaml", "--out", out, "--draw").exit_code == 0
    monkeypatch.setenv("FLORIST_JOBS_FOLDER", str(out))
    datasets = DatasetOpener()
    dataset = keep_readable(datasets("job:1"))
    assert {"0.png", "1.png", "2.png"} <= {example.name for example in dataset.images}
    for example in dataset.images:
        assert {note.kind for note in example.annotations} == {"box"}  # what a region is called is no caption
        assert example.complete == {LabelKind.OBJECTS}
        assert example.open().size == example.size
    draw_scene(1).image.save(pictures / "0.png")
    with pytest.raises(DatasetError, match="does not hold the same pictures as when the job began"):
        datasets("job:1")
