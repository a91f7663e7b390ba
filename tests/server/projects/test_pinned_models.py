"""Jobs whose recipes use projects, on a tiny model: which model answers, what is stored, and what is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import torch
from typer.testing import CliRunner

from labels.labeled_image import LabeledImage
from prompts.tasks import TASKS
from server.app import create_app
from server.cli.main import app
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request
from server.jobs import job_start
from server.jobs.job_recipe import get_job_recipe
from server.jobs.pinned_models import ProjectModels
from server.jobs.queue import JobQueue
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.recipes.problems import RecipeError
from server.jobs.recipes.recipe import PinnedChampion, Recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.projects.projects import Projects
from server.settings import Settings
from server.store import Job, JobMismatchError, JobState
from server.store.database import to_file_url
from server.store.jobs.job_store import JobStore
from server.store.projects.ensembles import BoxFusion
from server.store.projects.errors import NotFoundError
from tests.server.engine.tiny import create_image
from tests.server.helpers import TIMEOUT, serve_app, wait_until
from tests.server.projects.project_setup import (
    add_random_model,
    create_project,
    force_promotion,
    list_adapters,
    open_projects,
)

SEEDS = (5, 10, 0, 8, 1, 11)  # of images; boxes are found on some of them
OTHER_MODULES = r".*(fc1|fc2|q_proj|k_proj|v_proj|out_proj)"  # of an adapter that answers differently


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for position, seed in enumerate(SEEDS):
        create_image(seed).save(folder / f"{position}.png")
    return folder


@pytest.fixture(scope="module")
def narrow(checkpoint: str) -> Iterator[Engine]:
    """An engine that answers one prompt at a time, so that a job takes two images at a time."""
    torch.set_num_threads(1)
    with Engine.load(EngineConfig(checkpoint, device="cpu", max_batch=1)) as loaded:
        yield loaded


def create_recipe(champions: Any = None, **step: Any) -> Recipe:
    steps = [{"id": "a", "task": "<OD>", "project": "emoji", **step}]
    return validate_recipe({"name": "birds", "steps": steps, "champions": champions or {}})


@contextmanager
def open_queue(folder: Path, projects: Projects, images: Path) -> Iterator[JobQueue]:
    """The jobs of a server that has these projects, from its start to its end."""
    queue = JobQueue(folder / "jobs", None, [str(images)])
    try:
        queue.start(projects.engine, projects.pinned_models)
        yield queue
    finally:
        queue.close()


def wait_for_job(queue: JobQueue, job: Job) -> list[LabeledImage]:
    """Returns what the job has labeled, once it is done."""
    wait_until(lambda: queue.get_job(job.id).state in (JobState.DONE, JobState.FAILED))
    assert (now := queue.get_job(job.id)).state is JobState.DONE, now.reason
    return list(queue.store.iter_images(job))


def ask_champion(projects: Projects, position: int) -> str:
    """Returns the raw answer of the detection champion for an image."""
    engine = projects.engine
    ensemble = projects.champions.find_champion("emoji", "<OD>")
    request = Request(engine.prepare(create_image(SEEDS[position])), TASKS["<OD>"])
    return ensemble.submit(engine.submit, request).wait(TIMEOUT).text


def find_adapters(images: list[LabeledImage]) -> set[str | None]:
    """Returns the hashes of the adapters that annotations are from."""
    adapters = {trace.adapter for image in images for trace in image.traces}
    assert adapters
    return adapters


def test_a_job_uses_the_model_that_was_promoted_when_it_started(narrow: Engine, images: Path, tmp_path: Path) -> None:
    with (
        open_projects(tmp_path, narrow, start=False) as projects,
        JobStore(to_file_url(tmp_path / "florist.db")) as store,
        open_source(str(images)) as source,
    ):
        pinned_models = projects.pinned_models
        project = create_project(projects)
        one = add_random_model(projects, project, 1)
        two = add_random_model(projects, project, 1, modules=OTHER_MODULES)
        force_promotion(projects, project, one)
        answers = [ask_champion(projects, position) for position in range(len(SEEDS))]

        def start_job(output: str) -> Job:
            recipe = create_recipe()
            return job_start.start_job(store, narrow, recipe, source, str(images), output, projects=pinned_models)

        def work(job: Job, stop: Event, on_image: Callable[[Any], None] = lambda image: None) -> list[LabeledImage]:
            recipe = get_job_recipe(job)
            with pinned_models.load_champions(narrow, recipe, job.id) as champions:
                run_job(
                    store, job, narrow, source, partial(execute_recipe, recipe), pinned_models=champions,
                    on_image=on_image, stop=stop,
                )  # fmt: skip
            return list(store.iter_images(job))

        def promote_and_stop(_: Any) -> None:
            if not stopped.is_set():
                force_promotion(projects, project, two)
            stopped.set()

        first, stopped = start_job("first"), Event()
        assert 0 < len(work(first, stopped, promote_and_stop)) < len(SEEDS)
        assert list_adapters(narrow) == {f"projects/emoji/run-{two.run_id}"}
        assert start_job("first").id == first.id  # the same command continues it
        labeled = work(first, Event())
        assert store.get_job(first.id).state is JobState.DONE
        assert len(labeled) == len(SEEDS)
        assert find_adapters(labeled) == {one.sha256}
        for position, image in enumerate(labeled):
            assert {trace.raw for trace in image.traces} <= {answers[position]}
        champion = PinnedChampion(model=one.id, sha256=one.sha256)
        assert get_job_recipe(first).champions["emoji"]["<OD>"] == champion
        assert find_adapters(work(start_job("second"), Event())) == {two.sha256}
        assert list_adapters(narrow) == {f"projects/emoji/run-{two.run_id}"}
        projects.delete_project(project)


def test_two_concurrent_requests_with_a_promotion_between_them_start_one_job(
    narrow: Engine, images: Path, tmp_path: Path
) -> None:
    with (
        open_projects(tmp_path, narrow, start=False) as projects,
        JobStore(to_file_url(tmp_path / "florist.db")) as store,
        open_source(str(images)) as source,
    ):
        pinned_models = projects.pinned_models
        project = create_project(projects)
        one = add_random_model(projects, project, 1)
        two = add_random_model(projects, project, 1, modules=OTHER_MODULES)
        force_promotion(projects, project, one)

        def start_job(recipe: Recipe, models: ProjectModels) -> Job:
            return job_start.start_job(store, narrow, recipe, source, str(images), "out", projects=models)

        class OvertakenModels:
            """Another server receives the same request first, and then a promotion."""

            load_champions, find_class_lists = pinned_models.load_champions, pinned_models.find_class_lists

            def find_champion(self, *arguments: Any) -> PinnedChampion | None:
                if store.find_job("out") is None:
                    start_job(create_recipe(), pinned_models)
                    force_promotion(projects, project, two)
                return pinned_models.find_champion(*arguments)

        job = start_job(create_recipe(), OvertakenModels())
        assert [each.id for each in store.list_jobs()] == [job.id]
        assert get_job_recipe(job).champions == {"emoji": {"<OD>": PinnedChampion(model=one.id, sha256=one.sha256)}}
        # Any other difference makes it another job.
        with pytest.raises(JobMismatchError, match="step a: flip was not set"):
            start_job(create_recipe(flip=0.5), pinned_models)
        projects.delete_project(project)


def test_an_ensemble_labels_as_it_answers_prompts(narrow: Engine, images: Path, tmp_path: Path) -> None:
    with open_projects(tmp_path, narrow, start=False) as projects:
        project = create_project(projects)
        one = add_random_model(projects, project, 1)
        two = add_random_model(projects, project, 1, modules=OTHER_MODULES)
        fusion = BoxFusion(combine="fuse", models=(one.id, None, two.id))
        fused = projects.models.create_ensemble(project, fusion)
        force_promotion(projects, project, fused)
        names = list_adapters(narrow)
        with open_queue(tmp_path, projects, images) as queue:
            job, _ = queue.add_job(str(images), create_recipe(check=True), "out")
            labeled = wait_for_job(queue, job)
            assert find_adapters(labeled) == {fused.sha256}
            for position, image in enumerate(labeled):
                assert {trace.raw for trace in image.traces} <= {ask_champion(projects, position)}
            # The base model checks the boxes.
            assert '"<REGION_TO_CATEGORY>":null' in queue.get_job(job.id).spec.recipe
        assert list_adapters(narrow) == names
        projects.delete_project(project)


def test_a_model_that_is_not_available_is_refused_when_a_job_is_created(
    narrow: Engine, images: Path, tmp_path: Path
) -> None:
    with open_projects(tmp_path, narrow, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        with open_queue(tmp_path, projects, images) as queue:

            def check_refused(recipe: Recipe, error: type[Exception], message: str) -> None:
                with pytest.raises(error, match=message):
                    queue.add_job(str(images), recipe, "out")

            check_refused(
                create_recipe(project="birds"), NotFoundError, "there is no project 'birds'; there are: emoji"
            )
            check_refused(create_recipe(), RecipeError, "no model of emoji is promoted for <OD>: promote one")
            force_promotion(projects, project, model)
            check_refused(create_recipe(task="<CAPTION>"), RecipeError, "no model of emoji is promoted for <CAPTION>")

            def pin(task: str = "<OD>", **champion: Any) -> Recipe:
                champion = {"model": model.id, "sha256": model.sha256, **champion}
                return create_recipe({"emoji": {task: champion}}, task=task)

            check_refused(pin(model=77), NotFoundError, "project emoji has no model 77")
            check_refused(pin(sha256="f" * 64), RecipeError, "has other weights than `champions` says")
            check_refused(pin("<CAPTION>"), NotFoundError, "answers <OD>, not <CAPTION>")
            assert queue.store.list_jobs() == []
            projects.models.roll_back(project, "<OD>", "Ada")
            job, _ = queue.add_job(str(images), pin(), "out")  # like the recipe of another job
            assert find_adapters(wait_for_job(queue, job)) == {model.sha256}
        projects.delete_project(project)


def test_a_job_whose_project_was_deleted_fails_with_its_reason(narrow: Engine, images: Path, tmp_path: Path) -> None:
    with open_projects(tmp_path, narrow, start=False) as projects, open_source(str(images)) as source:
        project = create_project(projects)
        force_promotion(projects, project, add_random_model(projects, project, 1))
        (tmp_path / "jobs").mkdir()
        with JobStore(to_file_url(tmp_path / "jobs" / "florist.db")) as store:  # of a server that has not started yet
            options = '{"by": "server"}'
            job = job_start.start_job(
                store, narrow, create_recipe(), source, str(images), "out", options, projects.pinned_models
            )
        projects.delete_project(project)
        with open_queue(tmp_path, projects, images) as queue:
            wait_until(lambda: queue.get_job(job.id).state is JobState.FAILED)
            assert "there is no project 'emoji'" in queue.get_job(job.id).reason


def test_a_job_over_http_uses_the_promoted_model(narrow: Engine, images: Path, tmp_path: Path) -> None:
    with open_projects(tmp_path, narrow, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        force_promotion(projects, project, model)
        create_project(projects, "idle")
    settings = Settings(jobs_folder=tmp_path, jobs_sources=(str(images),))
    recipe = create_recipe()
    body = {"source": str(images), "recipe": recipe.model_dump(mode="json", exclude_defaults=True)}
    with (
        serve_app(create_app(settings, narrow)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT) as client,
    ):
        without = client.post("/v1/jobs", json=body)
        assert without.status_code == 422, without.text
        assert "set FLORIST_PROJECTS_FOLDER" in without.json()["detail"]
    with (
        serve_app(create_app(settings.model_copy(update={"projects_folder": tmp_path / "projects"}), narrow)) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT) as client,
    ):
        for name in ("idle", "nobody"):
            steps = [{"id": "a", "task": "<OD>", "project": name}]
            wrong = client.post("/v1/jobs", json={**body, "recipe": {"name": "x", "steps": steps}})
            assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:florist:problem:invalid-recipe")
            assert name in wrong.json()["detail"]
        too_large = {"emoji": {"<OD>": {"model": 2**63, "sha256": model.sha256}}}
        wrong = client.post(
            "/v1/jobs", json={**body, "recipe": recipe.model_dump(mode="json") | {"champions": too_large}}
        )
        assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:florist:problem:invalid-recipe")
        assert "champions.emoji.<OD>.model" in wrong.json()["detail"]
        created = client.post("/v1/jobs", json=body)
        assert created.status_code == 201, created.text
        champion = {"model": model.id, "sha256": model.sha256}
        assert created.json()["recipe"]["champions"] == {"emoji": {"<OD>": champion}}
        job = f"/v1/jobs/{created.json()['id']}"
        wait_until(lambda: client.get(job).json()["state"] in ("done", "failed"))
        assert client.get(job).json()["state"] == "done", client.get(job).text
        rows = client.get(f"{job}/results").json()["images"]
        assert {annotation["adapter"] for row in rows for annotation in row["annotations"]} == {model.sha256}
        client.delete("/v1/projects/1")


def test_florist_label_uses_the_promoted_model(narrow: Engine, checkpoint: str, images: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "birds.yaml"
    recipe.write_text("name: birds\nsteps: [{id: a, task: <OD>, project: emoji}]\n")
    command = ["label", str(images), "--recipe", str(recipe), "--model", checkpoint, "--format", "jsonl"]

    def label(**variables: str) -> Any:
        environment = {"COLUMNS": "200", "FLORIST_DEVICE": "cpu", **variables}
        return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out")], env=environment)

    with open_projects(tmp_path, narrow, start=False) as projects:
        project = create_project(projects)
        one = add_random_model(projects, project, 1)
        two = add_random_model(projects, project, 1, modules=OTHER_MODULES)
        without = label()
        assert without.exit_code == 2
        assert "set FLORIST_PROJECTS_FOLDER and FLORIST_JOBS_FOLDER" in without.stderr
        server = {"FLORIST_PROJECTS_FOLDER": str(tmp_path / "projects"), "FLORIST_JOBS_FOLDER": str(tmp_path)}
        not_promoted = label(**server)
        assert not_promoted.exit_code == 2
        assert "no model of emoji is promoted for <OD>" in not_promoted.stderr
        lines = []
        for model in (one, two):  # the second time, the same command makes the same dataset with the same model
            force_promotion(projects, project, model)
            done = label(**server)
            assert done.exit_code == 0, done.stderr
            assert f"project emoji: this job uses its model {one.id} for <OD>" in done.stderr
            lines.append((tmp_path / "out" / "labels.jsonl").read_text())
        assert lines[0] == lines[1]
        assert one.sha256 in lines[0]
        assert two.sha256 not in lines[0]
        projects.delete_project(project)
