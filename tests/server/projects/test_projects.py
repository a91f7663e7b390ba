"""Projects on a tiny model: which model answers, and what happens to requests meanwhile."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy.exc import IntegrityError

from prompts.tasks import TASKS
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request
from server.projects.errors import BaseMismatchError
from server.projects.projects import Projects
from server.store.projects.records import Project
from tests.server.engine.tiny import create_tiny_model, save_adapter, save_checkpoint
from tests.server.helpers import TIMEOUT
from tests.server.projects.project_setup import (
    QUICK,
    add_random_model,
    create_project,
    force_promotion,
    list_adapters,
    open_projects,
)


def promote_random_model(projects: Projects, project: Project, seed: int) -> None:
    force_promotion(projects, project, add_random_model(projects, project, seed))


def find_champion(projects: Projects, task: str = "<OD>") -> str | None:
    return projects.champions.find_champion("emoji", task).name


def test_champions_answer_after_a_restart_and_running_requests_keep_their_adapter(
    engine: Engine, tmp_path: Path
) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        promote_random_model(projects, project, 1)
        first = find_champion(projects)
        assert first == f"projects/emoji/run-{projects.store.models.list_models(project)[0].run_id}"
        promote_random_model(projects, project, 2)
        second = find_champion(projects)
        assert second is not None
        assert second != first
        assert list_adapters(engine) == {second}
    engine.unload_adapter(second)
    with open_projects(tmp_path, engine, start=False) as projects:
        assert find_champion(projects) == second
        assert find_champion(projects, "<CAPTION>") is None
        request = Request(Image.new("RGB", (64, 48)), TASKS["<OD>"], adapter=second, max_new_tokens=20)
        running = [engine.submit(request) for _ in range(20)]
        projects.models.roll_back(project, "<OD>", "Ada")
        assert find_champion(projects) == first
        projects.models.roll_back(project, "<OD>", "Ada")
        assert engine.list_adapters() == []
        assert len({tuple(handle.wait(TIMEOUT).tokens) for handle in running}) == 1
        projects.delete_project(project)
        assert not (tmp_path / "projects" / project.folder).exists()


def test_a_promotion_that_cannot_be_stored_changes_no_champion_and_leaves_no_adapter_loaded(
    engine: Engine, tmp_path: Path
) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        promote_random_model(projects, project, 1)
        promote_random_model(projects, project, 2)
        champion = find_champion(projects)
        third = add_random_model(projects, project, 3)
        with projects.store.database.begin_write() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON promotions BEGIN SELECT RAISE(ABORT, 'no more'); END"
            )
        with pytest.raises(IntegrityError):
            projects.models.roll_back(project, "<OD>", "Ada")
        assert (find_champion(projects), list_adapters(engine)) == (champion, {champion})
        with pytest.raises(IntegrityError):
            force_promotion(projects, project, third)
        assert (find_champion(projects), list_adapters(engine)) == (champion, {champion})
        projects.delete_project(project)


def test_an_adapter_with_the_same_name_and_other_weights_is_replaced(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        # SQLite gives the ids of deleted rows to new ones.
        other = save_adapter(tmp_path / "old", 2, target_modules=["fc1"])
        engine.load_adapter(f"projects/emoji/run-{model.run_id}", other)
        force_promotion(projects, project, model)
        assert [adapter.sha256 for adapter in engine.list_adapters()] == [model.sha256]
        projects.delete_project(project)


def test_no_request_is_dropped_while_the_champion_changes(engine: Engine, tmp_path: Path) -> None:
    stop = threading.Event()
    image = engine.prepare(Image.new("RGB", (64, 48)))

    def submit_requests() -> set[str | None]:
        adapters: set[str | None] = set()
        while not stop.is_set():
            with projects.champions.keep_adapters():
                ensemble = projects.champions.find_champion("emoji", "<OD>")
                handle = ensemble.submit(engine.submit, Request(image, TASKS["<OD>"], max_new_tokens=5))
            handle.wait(TIMEOUT)
            adapters.add(ensemble.name)
        return adapters

    with open_projects(tmp_path, engine, start=False) as projects, ThreadPoolExecutor(4) as threads:
        project = create_project(projects)
        promote_random_model(projects, project, 1)
        model = projects.store.models.list_models(project)[0]
        clients = [threads.submit(submit_requests) for _ in range(4)]
        try:
            for _ in range(20):
                projects.models.roll_back(project, "<OD>", "Ada")
                time.sleep(0.05)  # so that the base model answers some requests
                force_promotion(projects, project, model)
        finally:
            stop.set()
        adapters = set.union(*(client.result(TIMEOUT) for client in clients))
        assert adapters == {None, f"projects/emoji/run-{model.run_id}"}
        projects.delete_project(project)


def test_other_base_weights_are_refused_with_both_hashes(engine: Engine, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "other", create_tiny_model(seed=5))
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
    with (
        Engine.load(EngineConfig(str(checkpoint), device="cpu")) as other,
        open_projects(tmp_path, other, start=False) as projects,
    ):
        calls: list[Callable[[], Any]] = [
            lambda: projects.runs.start_run(project, QUICK, "Ada"),
            lambda: projects.models.roll_back(project, "<OD>", "Ada"),
            lambda: projects.champions.find_champion("emoji", "<OD>"),
        ]
        for call in calls:
            with pytest.raises(BaseMismatchError) as caught:
                call()
            assert project.base_sha256 in str(caught.value)
            assert other.checkpoint.sha256 in str(caught.value)
