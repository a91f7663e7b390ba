"""Clients that change the same project at once: nothing is lost, nothing happens twice, and memory agrees with the
database."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server.engine.engine import Engine
from server.projects.champion_registry import ChampionRegistry
from server.projects.projects import Projects
from server.store import InvalidStateError, StoreUnavailableError
from server.store.projects.errors import NameTakenError, NotFoundError, NothingPromotedError
from server.store.projects.records import ExecutionState, Project
from tests.server.projects.project_setup import (
    add_random_model,
    create_project,
    list_adapters,
    open_projects,
)
from tests.server.projects.scenes import draw_scenes

THREADS = 8


def run_together(*calls: Callable[[], Any]) -> list[Any]:
    """Runs the calls at once. Returns what each returns or raises."""
    with ThreadPoolExecutor(len(calls)) as threads:
        futures = [threads.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


def count_kinds(results: list[Any]) -> Counter[str]:
    return Counter(type(result).__name__ for result in results)


def test_a_name_is_given_once(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        results = run_together(*[lambda: projects.create_project("emoji", ("<OD>",), 0.5)] * THREADS)
        assert count_kinds(results) == {"Project": 1, NameTakenError.__name__: THREADS - 1}
        assert [project.name for project in projects.store.list_projects()] == ["emoji"]


def test_each_correction_of_an_image_is_a_version(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects, images=0)
        (scene,) = draw_scenes(1)

        def correct() -> None:
            for _ in range(5):
                projects.corrections.add_correction(project, scene.data, scene.boxes)

        assert run_together(*[correct] * THREADS) == [None] * THREADS
        versions = [each.version for each in projects.store.corrections.list_corrections(project)]
        assert versions == list(range(1, 5 * THREADS + 1))
        (current,) = projects.store.corrections.list_current(project)
        assert current.version == 5 * THREADS
        assert (
            len([file for file in (tmp_path / "projects").rglob("*") if file.is_file() and "images" in str(file)]) == 1
        )


def check_champion(projects: Projects, project: Project, engine: Engine) -> None:
    """Checks that what answers is what the newest promotion says."""
    model_id = projects.store.promotions.list_champions(project)["<OD>"]
    champion = projects.champions.find_champion(project.name, "<OD>").name
    if model_id is None:
        assert (champion, list_adapters(engine)) == (None, set())
    else:
        run_id = projects.store.models.get_model(project, model_id).run_id
        assert champion == f"projects/emoji/run-{run_id}"
        assert list_adapters(engine) == {champion}


def test_promotions_and_rollbacks_happen_one_after_the_other(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        models = [add_random_model(projects, project, seed) for seed in range(2)]
        done: list[int | None] = []

        def change(number: int) -> None:
            for step in range(4):
                try:
                    if (number + step) % 3:
                        model = models[(number + step) % 2]
                        promotion = projects.models.promote(project, model, "Ada", forced=True, reason=str(number))
                    else:
                        promotion = projects.models.roll_back(project, "<OD>", "Ada")
                except (InvalidStateError, NothingPromotedError):  # it is the champion already; there is none
                    continue
                done.append(promotion.id)

        assert run_together(*[lambda n=n: change(n) for n in range(4)]) == [None] * 4  # type: ignore[misc]
        history = projects.store.promotions.list_promotions(project)
        assert sorted(each.id for each in history) == sorted(filter(None, done))
        stack: list[int | None] = [None]
        for promotion in history:  # each one started from the state that the one before left
            if promotion.is_rollback:
                stack.pop()
                assert promotion.model_id == stack[-1]
            else:
                assert promotion.model_id != stack[-1]
                stack.append(promotion.model_id)
        check_champion(projects, project, engine)
        projects.delete_project(project)


def test_a_project_that_is_deleted_in_use_leaves_nothing(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        scenes = list(draw_scenes(5, seed=500))

        def use(call: Callable[[], Any]) -> Exception | None:
            for _ in range(50):
                try:
                    call()
                except InvalidStateError:  # the model is the champion already
                    pass
                except NotFoundError as error:
                    return error
            return None

        calls: list[Callable[[], Any]] = [
            lambda: [projects.corrections.add_correction(project, each.data, each.boxes) for each in scenes],
            lambda: projects.models.promote(project, model, "Ada", forced=True, reason="a test"),
            lambda: projects.models.start_backtest(project, model, "Ada"),
        ]
        results = run_together(
            *[lambda call=call: use(call) for call in calls], lambda: projects.delete_project(project)
        )  # type: ignore[misc]
        assert results[-1] is None
        assert {type(result) for result in results[:-1]} <= {NotFoundError, type(None)}
        assert projects.store.list_projects() == []
        with projects.store.database.begin_read() as connection:
            for table in ("corrections", "runs", "models", "backtests", "promotions"):
                assert connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() == 0, table
        assert list_adapters(engine) == set()
        with pytest.raises(NotFoundError):
            projects.champions.find_champion("emoji", "<OD>")
        assert not (tmp_path / "projects" / project.folder).exists()


def test_what_refers_to_a_deleted_project_is_not_found(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        store = projects.store
        projects.delete_project(project)
        for call in (
            lambda: store.runs.add_run(project, {}, "runs/x", "d" * 64, 1, 1, "Ada"),
            lambda: store.backtests.add_backtest(project, model, None, 0, "Ada"),
            lambda: store.promotions.promote(project, model, "Ada", forced=True, reason="a test"),
        ):
            with pytest.raises(NotFoundError, match=r"emoji was deleted"):
                call()
        (scene,) = draw_scenes(1)
        with pytest.raises(NotFoundError):
            projects.corrections.add_correction(project, scene.data, scene.boxes)
        assert not (tmp_path / "projects" / project.folder).exists()


def test_the_id_of_a_deleted_project_is_given_to_no_other(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        first = create_project(projects, images=1)
        projects.delete_project(first)
        assert projects.create_project("other", ("<OD>",), 0.5).id > first.id


def test_a_run_ends_once(engine: Engine, tmp_path: Path) -> None:
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        for seed in range(3):
            run = add_random_model(projects, project, seed) and projects.store.runs.list_runs(project)[-1]
            again = projects.store.runs.add_run(project, run.config, "runs/x", "d" * 64, 1, 1, "Ada")
            projects.store.runs.change_state(again, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
            results = run_together(
                lambda again=again: projects.store.runs.finish_run(project, again, {}, "5" * 64, ["<OD>"]),  # type: ignore[misc]
                lambda again=again: projects.store.runs.cancel_run(project, again),  # type: ignore[misc]
                lambda again=again: projects.store.runs.finish_run(project, again, {}, "5" * 64, ["<OD>"]),  # type: ignore[misc]
            )
            state = projects.store.runs.get_run(project, again.id).state
            models = projects.store.runs.list_model_ids([again])[again.id]
            assert len(models) == [results[0], results[2]].count(True) == (state is ExecutionState.DONE)
            assert state in (ExecutionState.DONE, ExecutionState.CANCELLED)
        projects.delete_project(project)


def test_a_change_that_waits_too_long_gives_up(engine: Engine) -> None:
    champions = ChampionRegistry(engine, max_wait=0.05)
    with champions.hold_changes(), pytest.raises(StoreUnavailableError), champions.hold_changes():
        pass
    with champions.hold_changes():
        pass
