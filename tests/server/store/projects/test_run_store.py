"""Fine-tune runs in both databases."""

from collections.abc import Sequence

import pytest

from server.store import InvalidStateError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ExecutionState, Project, Run
from tests.server.store.projects.stored_records import add_model, add_run


def test_runs_are_executed_in_order_and_resumed(
    store: ProjectStore, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = store.runs
    first, second = add_run(store, project), add_run(store, project)
    assert store.find_open_run() == (project, first)
    assert runs.change_state(first, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
    found = store.find_open_run()  # as after a restart
    assert found is not None
    assert (found[1].id, found[1].state) == (first.id, ExecutionState.RUNNING)
    runs.change_state(first, ExecutionState.FAILED, (ExecutionState.RUNNING,), "the disk is full")
    assert runs.get_run(project, first.id).reason == "the disk is full"
    assert runs.resume_run(project, first).state is ExecutionState.QUEUED
    assert runs.cancel_run(project, second).state is ExecutionState.CANCELLED
    with pytest.raises(InvalidStateError, match="is cancelled"):
        runs.resume_run(project, second)
    # The tuner takes the run before it is read again: it was resumed all the same.
    runs.change_state(first, ExecutionState.FAILED, (ExecutionState.QUEUED,))
    change_state = runs.change_state

    def change_and_take(run: Run, to: ExecutionState, states: Sequence[ExecutionState], reason: str = "") -> bool:
        changed = change_state(run, to, states, reason)
        return changed and change_state(run, ExecutionState.RUNNING, (ExecutionState.QUEUED,))

    monkeypatch.setattr(runs, "change_state", change_and_take)
    assert runs.resume_run(project, first).state is ExecutionState.RUNNING
    assert not runs.finish_run(project, second, {}, "5" * 64, ["<OD>"])
    assert store.models.list_models(project) == []
    assert [run.id for run in runs.list_runs(project)] == [first.id, second.id]


def test_a_run_that_diverged_keeps_its_best_step_as_models(store: ProjectStore, project: Project) -> None:
    run = add_run(store, project)
    store.runs.change_state(run, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
    tasks, metrics = ["<OD>", "<CAPTION>"], {"best_step": 2}
    assert store.runs.finish_run(project, run, metrics, "5" * 64, tasks, "the loss is nan\0")
    failed = store.runs.get_run(project, run.id)
    assert (failed.state, failed.reason, failed.metrics) == (ExecutionState.FAILED, "the loss is nan\\x00", metrics)
    model_ids = [model.id for model in store.models.list_models(project)]
    other = add_run(store, project)
    assert store.runs.list_model_ids([failed, other]) == {run.id: model_ids, other.id: []}
    assert len(model_ids) == 2
    # Resuming would change the adapter of its models.
    with pytest.raises(InvalidStateError, match=f"saved its best step as model {model_ids[0]}, {model_ids[1]}"):
        store.runs.resume_run(project, failed)
    assert store.runs.get_run(project, run.id).state is ExecutionState.FAILED


def test_a_model_has_the_initial_model_of_its_run(store: ProjectStore, project: Project) -> None:
    first = add_model(store, project)
    run = store.runs.add_run(project, {"tasks": ["<OD>"]}, "runs/y", "d" * 64, 6, 2, "Ada", first.id)
    store.runs.change_state(run, ExecutionState.RUNNING, (ExecutionState.QUEUED,))
    store.runs.finish_run(project, run, {}, "6" * 64, ["<OD>"])
    assert [model.initial_model_id for model in store.models.list_models(project)] == [None, first.id]
    assert store.runs.get_run(project, run.id).initial_model_id == first.id
