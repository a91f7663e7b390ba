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
from server.store import InvalidStateError
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


GAIN = {
    "value": -3.2,
    "confidence": 0.0,
    "gained": False,
    "units": 12,
    "advice": ["more steps: …", "more images of owl"],
}
NO_GAIN = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
outcome = {outcome!r}
keep = json.loads((folder / "request.json").read_text())["keep"]
if keep:
    (folder / "training/adapter").mkdir(parents=True)
    (folder / "training/adapter/adapter_model.safetensors").write_bytes(b"weights")
(folder / "outcome.json").write_text(json.dumps(outcome))
"""


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_without_a_gain_ends_in_its_own_state_and_says_what_to_try(
    engine: Engine, tmp_path: Path, keep: bool
) -> None:
    outcome = {
        "folder": "training/adapter", "before": 20.0, "best": 23.2, "best_step": 50, "steps": 100, "seconds": 9.5,
        "validation_seconds": 3.0, "stopped": "", "left_out": 0, "left_out_examples": [], "gain": GAIN,
    }  # fmt: skip
    with run_code(tmp_path, engine, NO_GAIN.format(outcome=outcome)) as (projects, project):
        run = projects.runs.start_run(project, QUICK, "Ada", keep=keep)
        wait_until(lambda: projects.store.runs.get_run(project, run.id).ended)
        ended = projects.store.runs.get_run(project, run.id)
        assert ended.state is ExecutionState.NO_GAIN
        assert ended.reason == (
            "no gain on the validation images: 20 before, 23.2 at step 50. What to try: more steps: …; "
            "more images of owl"
        )
        assert ended.metrics["gain"] == {"value": -3.2, "confidence": 0.0, "gained": False}
        assert len(projects.store.models.list_models(project)) == keep
        with pytest.raises(InvalidStateError):
            projects.runs.resume_run(project, ended)
        with pytest.raises(InvalidStateError):
            projects.runs.cancel_run(project, ended)
        projects.delete_project(project)
