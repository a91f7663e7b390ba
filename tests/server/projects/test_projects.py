"""Projects on a tiny model: who answers, and what is asked meanwhile."""

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
from server.projects.projects import Projects
from server.store.projects.records import BaseMismatchError, Project
from tests.server.engine.tiny import create_tiny_model, save_adapter, save_checkpoint
from tests.server.helpers import PATIENCE
from tests.server.projects.project_setup import QUICK, corrected, loaded, made, opened, promote


def promoted(projects: Projects, project: Project, seed: int) -> None:
    """A model by chance answers."""
    promote(projects, project, made(projects, project, seed))


def answering(projects: Projects, task: str = "<OD>") -> str | None:
    return projects.champions.answering("emoji", task).name


def test_champions_answer_again_after_a_restart_and_requests_end_as_they_began(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        promoted(projects, project, 1)
        name = answering(projects)
        assert name == f"projects/emoji/run-{projects.registry.models(project)[0].run}"
        promoted(projects, project, 2)
        second = answering(projects)
        assert second is not None
        assert second != name
        assert loaded(tiny) == {second}
    tiny.unload_adapter(second)
    with opened(tmp_path, tiny, start=False) as projects:
        assert answering(projects) == second
        assert answering(projects, "<CAPTION>") is None
        ask = Request(Image.new("RGB", (64, 48)), TASKS["<OD>"], adapter=second, max_new_tokens=20)
        under_way = [tiny.submit(ask) for _ in range(20)]
        projects.rollback(project, "<OD>", "Ada")
        assert answering(projects) == name
        projects.rollback(project, "<OD>", "Ada")
        assert tiny.adapters() == []
        assert len({tuple(handle.wait(PATIENCE).tokens) for handle in under_way}) == 1
        projects.delete(project)
        assert not (tmp_path / "projects" / project.folder).exists()


def test_what_cannot_be_written_down_changes_nobody_and_leaves_nothing_loaded(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        promoted(projects, project, 1)
        promoted(projects, project, 2)
        name = answering(projects)
        third = made(projects, project, 3)
        with projects.store.job_store.database.begin_write() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER full BEFORE INSERT ON promotions BEGIN SELECT RAISE(ABORT, 'no more'); END"
            )
        with pytest.raises(IntegrityError):
            projects.rollback(project, "<OD>", "Ada")
        assert (answering(projects), loaded(tiny)) == (name, {name})
        with pytest.raises(IntegrityError):
            promote(projects, project, third)
        assert (answering(projects), loaded(tiny)) == (name, {name})
        projects.delete(project)


def test_an_adapter_of_the_same_name_and_other_weights_does_not_answer(tiny: Engine, tmp_path: Path) -> None:
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
        model = made(projects, project, 1)
        # SQLite gives the numbers of what was deleted to what comes.
        tiny.load_adapter(f"projects/emoji/run-{model.run}", save_adapter(tmp_path / "old", 2, target_modules=["fc1"]))
        promote(projects, project, model)
        assert [adapter.sha256 for adapter in tiny.adapters()] == [model.sha256]
        projects.delete(project)


def test_no_request_is_dropped_while_who_answers_changes(tiny: Engine, tmp_path: Path) -> None:
    stop = threading.Event()
    image = tiny.prepare(Image.new("RGB", (64, 48)))

    def ask() -> set[str | None]:
        adapters: set[str | None] = set()
        while not stop.is_set():
            with projects.champions.asking():
                panel = projects.champions.answering("emoji", "<OD>")
                handle = panel.ask(tiny.submit, Request(image, TASKS["<OD>"], max_new_tokens=5))
            handle.wait(PATIENCE)
            adapters.add(panel.name)
        return adapters

    with opened(tmp_path, tiny, start=False) as projects, ThreadPoolExecutor(4) as threads:
        project = corrected(projects)
        promoted(projects, project, 1)
        model = projects.registry.models(project)[0]
        asked = [threads.submit(ask) for _ in range(4)]
        try:
            for _ in range(20):
                projects.rollback(project, "<OD>", "Ada")
                time.sleep(0.05)  # so that some are asked while the base answers
                promote(projects, project, model)
        finally:
            stop.set()
        assert set.union(*(each.result(PATIENCE) for each in asked)) == {None, f"projects/emoji/run-{model.run}"}
        projects.delete(project)


def test_another_base_is_refused_with_both_hashes(tiny: Engine, tmp_path: Path) -> None:
    other = save_checkpoint(tmp_path / "other", create_tiny_model(seed=5))
    with opened(tmp_path, tiny, start=False) as projects:
        project = corrected(projects)
    with (
        Engine.load(EngineConfig(str(other), device="cpu")) as engine,
        opened(tmp_path, engine, start=False) as projects,
    ):
        served = engine.checkpoint.sha256
        refusals: list[Callable[[], Any]] = [
            lambda: projects.tune(project, QUICK, "Ada"),
            lambda: projects.rollback(project, "<OD>", "Ada"),
            lambda: projects.champions.answering("emoji", "<OD>"),
        ]
        for refused in refusals:
            with pytest.raises(BaseMismatchError) as error:
                refused()
            assert project.base in str(error.value)
            assert served in str(error.value)
