"""Jobs whose recipes ask projects, on a tiny model: who answers, what of that is kept, and what is refused."""

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
from server.jobs.pinned_models import ProjectModels
from server.jobs.queue import JobQueue
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import RecipeError, validate_recipe
from server.jobs.recipes.recipe import PinnedChampion, Recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.projects.projects import Projects
from server.settings import Settings
from server.store import Job, JobMismatchError, JobState, JobStore, file_url
from server.store.projects.ensembles import BoxFusion
from server.store.projects.records import NotFoundError
from tests.server.engine.tiny import create_image
from tests.server.helpers import PATIENCE, serving, until
from tests.server.projects.project_setup import corrected, loaded, made, opened, promote

SEEDS = (5, 10, 0, 8, 1, 11)  # of pictures, on some of which boxes are found
OTHER = r".*(fc1|fc2|q_proj|k_proj|v_proj|out_proj)"  # modules of an adapter that answers otherwise


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for position, seed in enumerate(SEEDS):
        create_image(seed).save(folder / f"{position}.png")
    return folder


@pytest.fixture(scope="module")
def narrow(base: str) -> Iterator[Engine]:
    """It answers one prompt at a time, so that a job takes its pictures two by two."""
    torch.set_num_threads(1)
    with Engine.load(EngineConfig(base, device="cpu", max_batch=1)) as loaded:
        yield loaded


def recipe(champions: Any = None, **step: Any) -> Recipe:
    steps = [{"id": "a", "task": "<OD>", "project": "emoji", **step}]
    return validate_recipe({"name": "birds", "steps": steps, "champions": champions or {}})


@contextmanager
def working(folder: Path, projects: Projects, pictures: Path) -> Iterator[JobQueue]:
    """The jobs of a server that has these projects, from its start to its end."""
    queue = JobQueue(folder / "jobs", None, [str(pictures)])
    try:
        queue.start(projects.engine, projects.seating)
        yield queue
    finally:
        queue.close()


def ended(queue: JobQueue, job: Job) -> list[LabeledImage]:
    """What the job has labelled, once it is done."""
    until(lambda: queue.job(job.id).state in (JobState.DONE, JobState.FAILED))
    assert (now := queue.job(job.id)).state is JobState.DONE, now.reason
    return list(queue.store.iter_images(job))


def answered(projects: Projects, position: int) -> str:
    """What the champion of detection says of a picture, word for word."""
    engine = projects.engine
    panel = projects.champions.answering("emoji", "<OD>")
    request = Request(engine.prepare(create_image(SEEDS[position])), TASKS["<OD>"])
    return panel.ask(engine.submit, request).wait(PATIENCE).text


def signed(pictures: list[LabeledImage]) -> set[str | None]:
    """The hashes of the adapters that labels are from."""
    found = {label.adapter for each in pictures for label in each.traces}
    assert found
    return found


def test_a_job_is_of_the_model_that_was_promoted_when_it_began(narrow: Engine, pictures: Path, tmp_path: Path) -> None:
    with opened(tmp_path, narrow, start=False) as projects, open_source(str(pictures)) as source:
        store, seating = projects.store.store, projects.seating
        project = corrected(projects)
        one, two = made(projects, project, 1), made(projects, project, 1, modules=OTHER)
        promote(projects, project, one)
        said = [answered(projects, position) for position in range(len(SEEDS))]

        def begun(output: str) -> Job:
            return job_start.start_job(store, narrow, recipe(), source, str(pictures), output, projects=seating)

        def work(job: Job, stop: Event, told: Callable[[Any], None] = lambda ended: None) -> list[LabeledImage]:
            asked = job_start.get_job_recipe(job)
            with seating.seated(narrow, asked, job.id) as seats:
                run_job(store, job, narrow, source, partial(execute_recipe, asked), seats=seats, told=told, stop=stop)
            return list(store.iter_images(job))

        def interrupted(_: Any) -> None:
            if not killed.is_set():
                promote(projects, project, two)
            killed.set()

        first, killed = begun("first"), Event()
        assert 0 < len(work(first, killed, interrupted)) < len(SEEDS)
        assert loaded(narrow) == {f"projects/emoji/run-{two.run}"}
        assert begun("first").id == first.id  # the same command goes on with it
        labelled = work(first, Event())
        assert store.get_job(first.id).state is JobState.DONE
        assert len(labelled) == len(SEEDS)
        assert signed(labelled) == {one.sha256}
        for position, each in enumerate(labelled):
            assert {label.raw for label in each.traces} <= {said[position]}
        assert job_start.get_job_recipe(first).champions["emoji"]["<OD>"] == PinnedChampion(
            model=one.id, sha256=one.sha256
        )
        assert signed(work(begun("second"), Event())) == {two.sha256}
        assert loaded(narrow) == {f"projects/emoji/run-{two.run}"}
        projects.delete(project)


def test_of_two_requests_at_once_with_a_promotion_between_there_is_one_job(
    narrow: Engine, pictures: Path, tmp_path: Path
) -> None:
    with opened(tmp_path, narrow, start=False) as projects, open_source(str(pictures)) as source:
        store, seating = projects.store.store, projects.seating
        project = corrected(projects)
        one, two = made(projects, project, 1), made(projects, project, 1, modules=OTHER)
        promote(projects, project, one)

        def begun(asked: Recipe, models: ProjectModels) -> Job:
            return job_start.start_job(store, narrow, asked, source, str(pictures), "out", projects=models)

        class Overtaken:
            """The same request by another server comes first, and then a promotion."""

            seated = seating.seated

            def champion(self, *asked: Any) -> PinnedChampion | None:
                if store.find_job("out") is None:
                    begun(recipe(), seating)
                    promote(projects, project, two)
                return seating.champion(*asked)

        job = begun(recipe(), Overtaken())
        assert [each.id for each in store.list_jobs()] == [job.id]
        assert job_start.get_job_recipe(job).champions == {
            "emoji": {"<OD>": PinnedChampion(model=one.id, sha256=one.sha256)}
        }
        with pytest.raises(
            JobMismatchError, match="step a: flip was not given"
        ):  # what differs otherwise is another job
            begun(recipe(flip=0.5), seating)
        projects.delete(project)


def test_a_combined_model_labels_as_it_answers_prompts(narrow: Engine, pictures: Path, tmp_path: Path) -> None:
    with opened(tmp_path, narrow, start=False) as projects:
        project = corrected(projects)
        one, two = made(projects, project, 1), made(projects, project, 1, modules=OTHER)
        fused = projects.combine(project, BoxFusion(combine="fuse", models=(one.id, None, two.id)))
        promote(projects, project, fused)
        names = loaded(narrow)
        with working(tmp_path, projects, pictures) as queue:
            job, _ = queue.add(str(pictures), recipe(check=True), "out")
            labelled = ended(queue, job)
            assert signed(labelled) == {fused.sha256}
            for position, each in enumerate(labelled):
                assert {label.raw for label in each.traces} <= {answered(projects, position)}
            assert '"<REGION_TO_CATEGORY>":null' in queue.job(job.id).spec.recipe  # by whom a box is asked back
        assert loaded(narrow) == names
        projects.delete(project)


def test_what_cannot_be_asked_is_refused_when_a_job_is_made(narrow: Engine, pictures: Path, tmp_path: Path) -> None:
    with opened(tmp_path, narrow, start=False) as projects:
        project = corrected(projects)
        model = made(projects, project, 1)
        with working(tmp_path, projects, pictures) as queue:

            def refused(asked: Recipe, error: type[Exception], why: str) -> None:
                with pytest.raises(error, match=why):
                    queue.add(str(pictures), asked, "out")

            refused(recipe(project="birds"), NotFoundError, "there is no project 'birds'; there are: emoji")
            refused(recipe(), RecipeError, "no model of emoji is promoted for <OD>: promote one")
            promote(projects, project, model)
            refused(recipe(task="<CAPTION>"), RecipeError, "no model of emoji is promoted for <CAPTION>")

            def pinned(task: str = "<OD>", **champion: Any) -> Recipe:
                given = {"model": model.id, "sha256": model.sha256, **champion}
                return recipe({"emoji": {task: given}}, task=task)

            refused(pinned(model=77), NotFoundError, "the project emoji has no model 77")
            refused(pinned(sha256="f" * 64), RecipeError, "has other weights than `champions` says")
            refused(pinned("<CAPTION>"), NotFoundError, "answers <OD>, not <CAPTION>")
            assert queue.jobs() == []
            projects.rollback(project, "<OD>", "Ada")
            job, _ = queue.add(str(pictures), pinned(), "out")  # as the recipe of another job says
            assert signed(ended(queue, job)) == {model.sha256}
        projects.delete(project)


def test_a_job_whose_project_is_gone_says_so(narrow: Engine, pictures: Path, tmp_path: Path) -> None:
    with opened(tmp_path, narrow, start=False) as projects, open_source(str(pictures)) as source:
        project = corrected(projects)
        promote(projects, project, made(projects, project, 1))
        (tmp_path / "jobs").mkdir()
        with JobStore(file_url(tmp_path / "jobs" / "florist.db")) as store:  # of a server that has not begun yet
            named, ours = str(pictures), '{"by": "server"}'
            job = job_start.start_job(store, narrow, recipe(), source, named, "out", ours, projects.seating)
        projects.delete(project)
        with working(tmp_path, projects, pictures) as queue:
            until(lambda: queue.job(job.id).state is JobState.FAILED)
            assert "there is no project 'emoji'" in queue.job(job.id).reason


def test_over_http(narrow: Engine, pictures: Path, tmp_path: Path) -> None:
    with opened(tmp_path, narrow, start=False) as projects:
        project = corrected(projects)
        model = made(projects, project, 1)
        promote(projects, project, model)
        corrected(projects, "idle")
    chosen = Settings(jobs_folder=tmp_path, jobs_sources=(str(pictures),))
    asked = {"source": str(pictures), "recipe": recipe().model_dump(mode="json", exclude_defaults=True)}
    with (
        serving(create_app(chosen, narrow)) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        without = client.post("/v1/jobs", json=asked)
        assert without.status_code == 422, without.text
        assert "set FLORIST_PROJECTS_FOLDER" in without.json()["detail"]
    with (
        serving(create_app(chosen.model_copy(update={"projects_folder": tmp_path / "projects"}), narrow)) as url,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        for name in ("idle", "nobody"):
            steps = [{"id": "a", "task": "<OD>", "project": name}]
            wrong = client.post("/v1/jobs", json={**asked, "recipe": {"name": "x", "steps": steps}})
            assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:florist:problem:invalid-recipe")
            assert name in wrong.json()["detail"]
        far = {"emoji": {"<OD>": {"model": 2**63, "sha256": model.sha256}}}
        wrong = client.post("/v1/jobs", json={**asked, "recipe": recipe().model_dump(mode="json") | {"champions": far}})
        assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:florist:problem:invalid-recipe")
        assert "champions.emoji.<OD>.model" in wrong.json()["detail"]
        begun = client.post("/v1/jobs", json=asked)
        assert begun.status_code == 201, begun.text
        champion = {"model": model.id, "sha256": model.sha256}
        assert begun.json()["recipe"]["champions"] == {"emoji": {"<OD>": champion}}
        job = f"/v1/jobs/{begun.json()['id']}"
        until(lambda: client.get(job).json()["state"] in ("done", "failed"))
        assert client.get(job).json()["state"] == "done", client.get(job).text
        rows = client.get(f"{job}/results").json()["pictures"]
        assert {label["adapter"] for row in rows for label in row["labels"]} == {model.sha256}
        client.delete("/v1/projects/1")


def test_on_the_command_line(narrow: Engine, base: str, pictures: Path, tmp_path: Path) -> None:
    written = tmp_path / "birds.yaml"
    written.write_text("name: birds\nsteps: [{id: a, task: <OD>, project: emoji}]\n")
    command = ["label", str(pictures), "--recipe", str(written), "--model", base, "--format", "jsonl"]

    def label(*more: str, **variables: str) -> Any:
        plain = {"COLUMNS": "200", "FLORIST_DEVICE": "cpu"}
        return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "out"), *more], env={**plain, **variables})

    with opened(tmp_path, narrow, start=False) as projects:
        project = corrected(projects)
        one, two = made(projects, project, 1), made(projects, project, 1, modules=OTHER)
        without = label()
        assert without.exit_code == 2
        assert "set FLORIST_PROJECTS_FOLDER and FLORIST_JOBS_FOLDER" in without.stderr
        server = {"FLORIST_PROJECTS_FOLDER": str(tmp_path / "projects"), "FLORIST_JOBS_FOLDER": str(tmp_path)}
        nobody = label(**server)
        assert nobody.exit_code == 2
        assert "no model of emoji is promoted for <OD>" in nobody.stderr
        lines = []
        for model in (one, two):  # the second time the same command: the same dataset, by the same model
            promote(projects, project, model)
            done = label(**server)
            assert done.exit_code == 0, done.stderr
            assert f"emoji answers <OD> in this job by its model {one.id}" in done.stderr
            lines.append((tmp_path / "out" / "labels.jsonl").read_text())
        assert lines[0] == lines[1]
        assert one.sha256 in lines[0]
        assert two.sha256 not in lines[0]
        projects.delete(project)
