"""Failures of runs and backtests, as clients see them: a plain sentence, without traces and without paths."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.engine.engine import Engine
from server.projects import backtester
from server.projects.projects import Projects
from server.store.jobs.job_store import JobStore
from server.store.projects.records import ExecutionState, Project
from tests.server.helpers import wait_until
from tests.server.projects.project_setup import QUICK, add_random_model, create_project, open_projects


@contextmanager
def run_code(folder: Path, engine: Engine, code: str) -> Iterator[tuple[Projects, Project]]:
    """Projects whose runs execute Python code."""
    with JobStore(f"sqlite:///{folder / 'florist.db'}") as store:
        projects = Projects(folder / "projects", store.database, tune_command=[sys.executable, "-c", code])
        try:
            projects.load(engine)
            project = create_project(projects)
            projects.start()
            yield projects, project
        finally:
            projects.close()


@pytest.mark.parametrize(
    ("code", "reason", "log"),
    [
        ("raise RuntimeError('in a secret place')", "the process crashed (exit code 1)", "Traceback"),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9); it may be out of memory", "killed by signal"),
        (
            "import sys, json, pathlib; folder = pathlib.Path(sys.argv[1])\n"
            "folder.joinpath('outcome.json').write_text(json.dumps({'error': f'{folder}/training: No space left'}))",
            *("training: No space left", "/projects/"),
        ),
    ],
)
def test_a_failed_run_says_why_without_a_trace(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str, reason: str, log: str
) -> None:
    with caplog.at_level(logging.ERROR), run_code(tmp_path, engine, code) as (projects, project):
        run = projects.runs.start_run(project, QUICK, "Ada")
        wait_until(lambda: projects.store.runs.get_run(project, run.id).ended)
        failed = projects.store.runs.get_run(project, run.id)
        assert failed.state is ExecutionState.FAILED
        assert reason in failed.reason
        assert all(hidden not in failed.reason for hidden in ("Traceback", "secret", str(tmp_path), "/"))
        assert log in caplog.text
        projects.delete_project(project)


def test_a_backtest_that_fails_says_why_without_a_trace(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[ExecutionState] = []

    def fail(*_: object) -> None:
        states.append(projects.store.backtests.list_backtests(project)[0].state)
        raise RuntimeError(f"{tmp_path} is in a secret place")

    monkeypatch.setattr(backtester, "build_dataset", fail)
    with open_projects(tmp_path, engine, start=False) as projects:
        project = create_project(projects)
        model = add_random_model(projects, project, 1)
        projects.models.start_backtest(project, model, "Ada")
        projects.start()
        wait_until(lambda: projects.store.backtests.list_backtests(project)[0].ended)
        backtest = projects.store.backtests.list_backtests(project)[0]
        assert (backtest.state, states) == (ExecutionState.FAILED, [ExecutionState.RUNNING])
        assert backtest.reason == "an internal error; the server's log contains it"
        projects.delete_project(project)
