"""The projects and jobs of a server as datasets of `florist tune` and `florist evaluate`."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.verification import keep_readable
from prompts.annotations import Box
from prompts.class_lists import ClassList
from seedling.scenes.drawing import draw_scene
from server.cli.datasets import DatasetOpener
from server.cli.main import app
from server.projects.project_dataset import build_dataset
from server.projects.projects import Projects
from server.store.jobs.job_store import JobStore
from server.store.projects.records import Project
from tests.server.engine.tiny import create_tiny_model, save_checkpoint
from tests.server.projects.scenes import draw_scenes

QUICK = "steps: 1\nbatch_size: 2\nprompts_per_image: 1\nmetric: loss\nlora_rank: 2\n"


def run_florist(*arguments: object, **environment: str) -> Result:
    variables = {"COLUMNS": "200", "FLORIST_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true", **environment}
    result = CliRunner().invoke(app, [*map(str, arguments)], env=variables)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Projects]:
    """The folders and database of a running server, with one project that has six corrected images."""
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("FLORIST_JOBS_FOLDER", str(tmp_path / "jobs"))
    monkeypatch.setenv("FLORIST_PROJECTS_FOLDER", str(tmp_path / "projects"))
    monkeypatch.delenv("FLORIST_DATABASE_URL", raising=False)
    with JobStore(f"sqlite:///{tmp_path / 'jobs' / 'florist.db'}") as job_store:
        projects = Projects(tmp_path / "projects", job_store.database)
        project = projects.store.create_project(Project(0, "signs", "b" * 64, ("<OD>",), 0.5, "project-1", 0.0))
        for scene in draw_scenes(6):
            projects.corrections.add_correction(project, scene.data, scene.boxes, image_name="a scene")
        yield projects
        projects.close()


def test_a_project_is_read_while_its_server_runs_and_has_the_same_holdout(server: Projects) -> None:
    project = server.store.list_projects()[0]
    images = server.files.get_image_store(project)
    dataset = DatasetOpener()("project:signs")
    expected = build_dataset(project, server.store.corrections.list_current(project), images)
    assert dataset.training_images == expected.train
    assert dataset.evaluation_images == expected.holdout
    assert len(dataset.images) == 6
    readable = keep_readable(dataset)
    assert readable.holdout == dataset.holdout
    first = readable.training_images[0]
    data = images.get_path(first.name).read_bytes()
    # The server adds a correction.
    server.corrections.add_correction(project, data, [Box(label="corrected", box=(1, 2, 30, 40))])
    again = next(image for image in DatasetOpener()("project:signs").images if image.name == first.name)
    assert [annotation.label for annotation in again.annotations] == ["corrected"]
    assert dataset.class_list is None
    server.store.set_classes(project, ("corrected",))
    assert DatasetOpener()("project:signs").class_list == ClassList(("corrected",), "project signs")


@pytest.mark.slow
def test_a_project_is_trained_on_and_its_holdout_is_evaluated(server: Projects, tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", create_tiny_model())
    config = tmp_path / "tune.yaml"
    config.write_text(QUICK)
    result = run_florist("tune", "project:signs", "--out", tmp_path / "run", "--config", config, "--base", base)
    assert result.exit_code == 0, result.output
    dataset = DatasetOpener()("project:signs")
    assert f"{len(dataset.training_images)} training images, {len(dataset.holdout)} in the holdout" in result.stdout
    adapter = tmp_path / "run" / "adapter"
    result = run_florist("evaluate", base, "project:signs", "--adapter", adapter, "--task", "<OD>")
    assert result.exit_code == 0, result.output
    assert f"evaluating on the holdout: {len(dataset.holdout)} of 6 images" in result.stderr
    server.store.set_classes(server.store.list_projects()[0], dataset.classes)
    result = run_florist("evaluate", base, "project:signs", "--task", "<OD>")
    assert f"were held to the {len(dataset.classes)} classes of project signs" in result.stderr


@pytest.mark.parametrize(
    ("name", "environment", "message"),
    [
        ("project:birds", {}, "there is no project:birds; there are: signs"),
        ("project:signs", {"FLORIST_PROJECTS_FOLDER": ""}, "set FLORIST_PROJECTS_FOLDER and FLORIST_JOBS_FOLDER"),
        ("project:signs", {"FLORIST_JOBS_FOLDER": "/nowhere"}, "/nowhere/florist.db cannot be read"),
        ("project:signs", {"FLORIST_PROJECTS_FOLDER": "/nowhere"}, "/nowhere/storage_id: No such file or directory"),
        ("job:1", {}, "there is no job 1"),
        ("job:one", {}, "job:one is not a job: write its number, such as job:3"),
        (
            "job:1",
            {"FLORIST_JOBS_FOLDER": "", "FLORIST_PROJECTS_FOLDER": ""},
            "set FLORIST_JOBS_FOLDER or FLORIST_DATA",
        ),
    ],
)
def test_a_dataset_that_does_not_exist_is_refused_with_its_reason(
    server: Projects, tmp_path: Path, name: str, environment: dict[str, str], message: str
) -> None:
    for command in (("tune", name, "--out", tmp_path / "run"), ("evaluate", "seedling", name)):
        result = run_florist(*command, **environment)
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_database_of_another_version_is_not_changed(server: Projects) -> None:
    with server.store.database.begin_write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'older'")
    with pytest.raises(DatasetError, match="written by another version of florist"):
        DatasetOpener()("project:signs")


def test_the_annotations_of_a_job_are_read_without_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    out = folder / "out"  # the job's own drawings are not images of its source
    folder.mkdir()
    for seed in range(3):
        draw_scene(9000 + seed, objects=(1, 2)).image.save(folder / f"{seed}.png")
    Image.new("RGB", (40, 40)).save(folder / "nothing.png")
    steps = "  - {id: objects, task: <OD>}\n  - {id: names, task: <REGION_TO_CATEGORY>, for_each: objects}\n"
    (tmp_path / "things.yaml").write_text(f"name: things\nsteps:\n{steps}")
    assert run_florist("label", folder, "--recipe", tmp_path / "things.yaml", "--out", out, "--draw").exit_code == 0
    monkeypatch.setenv("FLORIST_JOBS_FOLDER", str(out))
    open_dataset = DatasetOpener()
    dataset = keep_readable(open_dataset("job:1"))
    assert {"0.png", "1.png", "2.png"} <= {image.name for image in dataset.images}
    for image in dataset.images:
        assert {annotation.kind for annotation in image.annotations} == {"box"}  # answers about regions are no captions
        assert image.complete == {LabelKind.OBJECTS}
        assert image.open().size == image.size
    # What is said about an object belongs to it.
    assert not [entry for entry in dataset.unusable if "about regions" in entry.reason]
    draw_scene(1).image.save(folder / "0.png")
    changed = keep_readable(open_dataset("job:1"))
    assert {image.name for image in dataset.images} - {image.name for image in changed.images} == {"0.png"}
    assert "job:1, 0.png: its file has changed since it was labeled" in map(str, changed.unusable)
