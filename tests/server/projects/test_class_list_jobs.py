"""Class lists of projects in jobs and backtests, on a tiny model that writes random names unless it is held."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune.tuning.validation import ValidationSet
from labels.sample import Sample
from prompts.annotations import Annotation
from server.engine.adapters.class_list import write_class_list
from server.engine.adapters.errors import AdapterSuspendedError
from server.engine.engine import Engine
from server.jobs.job_recipe import get_job_recipe
from server.jobs.job_start import start_job
from server.jobs.recipes.execution import execute_recipe
from server.jobs.recipes.parsing import validate_recipe
from server.jobs.runner import run_job
from server.jobs.sources import open_source
from server.store import Job
from server.store.database import to_file_url
from server.store.jobs.job_store import JobStore
from tests.server.engine.tiny import save_adapter
from tests.server.helpers import wait_until
from tests.server.projects.project_setup import add_random_model, create_project, force_promotion, open_projects
from tests.server.projects.scenes import draw_scenes

NAMES = ("wren", "robin")
RECIPE = validate_recipe({"name": "birds", "steps": [{"id": "a", "task": "<OD>", "project": "emoji"}]})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, scene in enumerate(draw_scenes(3)):
        (folder / f"{number}.png").write_bytes(scene.data)
    return folder


def list_labels(store: JobStore, job: Job) -> set[str]:
    return {trace.annotation.label for image in store.iter_images(job) for trace in image.traces}


def test_a_job_keeps_the_class_list_of_its_start(engine: Engine, images: Path, tmp_path: Path) -> None:
    with (
        open_projects(tmp_path, engine, start=False) as projects,
        JobStore(to_file_url(tmp_path / "florist.db")) as store,
        open_source(str(images)) as source,
    ):
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        write_class_list(projects.files.get_adapter_folder(project, model), NAMES)
        force_promotion(projects, project, model)

        def start(output: str, **top: Any) -> Job:
            recipe = RECIPE.model_copy(update=top)
            models = projects.pinned_models
            return start_job(store, engine, recipe, source, str(images), output, projects=models)

        def run(job: Job) -> set[str]:
            recipe = get_job_recipe(job)
            with projects.pinned_models.load_champions(engine, recipe, job.id) as champions:
                execute = partial(execute_recipe, recipe)
                run_job(store, job, engine, source, execute, exclusive=True, pinned_models=champions)
            return list_labels(store, job)

        first = start("first")
        key = f"projects/emoji/model-{model.id}"
        assert get_job_recipe(first).class_lists == {key: list(NAMES)}
        project = projects.set_classes(project, ("finch", "tit"))
        assert start("first").id == first.id
        assert run(first) <= set(NAMES)
        second = start("second")
        assert get_job_recipe(second).class_lists == {"projects/emoji": ["finch", "tit"]}
        assert run(second) <= {"finch", "tit"}
        free = start("free", any_class=True)
        assert free.spec.recipe_hash != second.spec.recipe_hash
        projects.delete_project(project)


def test_a_job_of_before_class_lists_continues_without_them(engine: Engine, images: Path, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "mine", 1, target_modules=".*fc1")
    recipe = validate_recipe({"name": "birds", "steps": [{"id": "a", "task": "<OD>", "adapter": "mine"}]})
    engine.load_adapter("mine", folder)
    with JobStore(to_file_url(tmp_path / "florist.db")) as store, open_source(str(images)) as source:
        old = start_job(store, engine, recipe, source, str(images), "out")
        assert "class_lists" not in json.loads(old.spec.recipe)
        write_class_list(folder, NAMES)
        engine.load_adapter("mine", folder)
        continued = start_job(store, engine, recipe, source, str(images), "out")
        assert (continued.id, get_job_recipe(continued).class_lists) == (old.id, {})
        new = start_job(store, engine, recipe, source, str(images), "new")
        assert get_job_recipe(new).class_lists == {"mine": list(NAMES)}
        run_job(store, new, engine, source, partial(execute_recipe, get_job_recipe(new)), exclusive=True)
        assert list_labels(store, new) <= set(NAMES)
    engine.unload_adapter("mine")


def test_a_backtest_holds_what_production_holds_and_shows_its_progress(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[set[str]] = []
    progress: list[tuple[int, int] | None] = []
    count_corrections = ValidationSet.count_corrections

    def record(self: ValidationSet, held: Engine, **options: Any) -> Any:
        found: set[str] = set()

        def on_answer(_: Sample, predicted: Sequence[Annotation]) -> None:
            found.update(annotation.label for annotation in predicted)

        def on_image() -> None:
            options["on_image"]()
            progress.append(projects.models.get_backtest_progress(backtest))

        counts = count_corrections(self, held, on_answer=on_answer, on_image=on_image)
        labels.append(found)
        return counts

    monkeypatch.setattr(ValidationSet, "count_corrections", record)
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects, images=16)
        model = add_random_model(projects, project, 1)
        write_class_list(projects.files.get_adapter_folder(project, model), NAMES)
        backtest = projects.models.start_backtest(project, model, "Ada")
        assert projects.models.get_backtest_progress(backtest) is None
        projects.start()
        wait_until(lambda: bool(projects.store.backtests.get_backtest(project, backtest.id).ended))
        champion, challenger = labels
        assert challenger <= set(NAMES)
        assert not champion <= set(NAMES)  # the base model has no list
        total = len(progress)
        assert progress == [(i + 1, total) for i in range(total)]
        assert projects.models.get_backtest_progress(backtest) is None
        project = projects.set_classes(project, ("finch", "tit"))
        again = projects.models.start_backtest(project, model, "Ada")
        wait_until(lambda: bool(projects.store.backtests.get_backtest(project, again.id).ended))
        assert all(found <= {"finch", "tit"} for found in labels[2:])
        projects.delete_project(project)


def test_a_failed_backtest_names_the_model_and_not_its_copy_in_the_engine(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suspend(self: ValidationSet, held: Engine, **options: Any) -> Any:
        raise AdapterSuspendedError(f"projects/emoji/run-{model.run_id}/backtest", 3, 30)

    monkeypatch.setattr(ValidationSet, "count_corrections", suspend)
    with open_projects(tmp_path, engine) as projects:
        project = create_project(projects, images=16)
        model = add_random_model(projects, project, 1)
        backtest = projects.models.start_backtest(project, model, "Ada")
        wait_until(lambda: bool(projects.store.backtests.get_backtest(project, backtest.id).ended))
        reason = projects.store.backtests.get_backtest(project, backtest.id).reason
        assert reason.startswith(f"the adapter of run {model.run_id} failed")
        projects.delete_project(project)
