"""The fine-tune runs of projects."""

import json
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from server.store import InvalidStateError
from server.store.database import Database
from server.store.pages import Page
from server.store.projects.queries import (
    find_open_row,
    has_id,
    insert_row,
    plan_project_page,
    require_one,
    select_rows,
)
from server.store.projects.records import OPEN_STATES, ExecutionState, Project, Run
from server.store.tables import ModelRow, RunRow
from server.store.text import clean_text


class RunStore:
    """Stores runs. Raises what ProjectStore raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_run(
        self, project: Project, config: dict[str, Any], folder: str, dataset_hash: str, train_images: int,
        holdout_images: int, author: str, initial_model_id: int | None = None,
    ) -> Run:  # fmt: skip
        """Stores a queued run."""
        run_id = insert_row(
            self._database, RunRow, project, initial_model_id=initial_model_id, config=json.dumps(config),
            folder=folder, dataset_hash=dataset_hash, train_images=train_images, holdout_images=holdout_images,
            state=ExecutionState.QUEUED, reason="", metrics="{}", author=clean_text(author),
        )  # fmt: skip
        return self.get_run(project, run_id)

    def plan_page(self, project: Project, after: int, limit: int) -> Page:
        """Returns a page of the runs with an ID above `after`, oldest first."""
        columns = RunRow.config, RunRow.metrics, RunRow.reason
        return plan_project_page(self._database, RunRow, project, after, limit, *columns)

    def list_runs(self, project: Project, ids: Sequence[int] | None = None) -> list[Run]:
        """Returns the runs with these IDs, or all, oldest first."""
        return list(map(_to_run, select_rows(self._database, RunRow, project, has_id(RunRow, ids))))

    def get_run(self, project: Project, run_id: int) -> Run:
        """Returns a run by its ID. Raises NotFoundError."""
        rows = select_rows(self._database, RunRow, project, RunRow.id == run_id)
        return _to_run(require_one(rows, f"project {project.name} has no run {run_id}"))

    def find_open_run(self, storage_id: str) -> tuple[int, Run] | None:
        """Returns the ID of the project and the run, for the oldest queued or running run of a storage."""
        row = find_open_row(self._database, RunRow, storage_id)
        return None if row is None else (row.project_id, _to_run(row))

    def change_state(self, run: Run, to: ExecutionState, states: Sequence[ExecutionState], reason: str = "") -> bool:
        """Changes a run's state if it is one of `states`. Returns whether it was."""
        values: dict[str, Any] = {"state": to, "reason": clean_text(reason)}
        if to is ExecutionState.RUNNING:
            values["started"] = sa.func.coalesce(RunRow.started, time.time())
        values["ended"] = None if to in OPEN_STATES else time.time()
        with self._database.begin_write() as connection:
            update = sa.update(RunRow).where(RunRow.id == run.id, RunRow.state.in_(states)).values(**values)
            return bool(connection.execute(update).rowcount)

    def cancel_run(self, project: Project, run: Run) -> Run:
        """Ends a run permanently. Raises InvalidStateError."""
        states = (ExecutionState.QUEUED, ExecutionState.RUNNING, ExecutionState.FAILED)
        return self._require_change(project, run, ExecutionState.CANCELLED, states, "cancelled")

    def resume_run(self, project: Project, run: Run) -> Run:
        """Queues a failed run again.

        Raises InvalidStateError, also for a run that has produced models: it would fail in the same way again, and
        change the adapter of these models.
        """
        if run.state is ExecutionState.FAILED and (models := self.list_model_ids([run])[run.id]):
            raise InvalidStateError(
                f"run {run.id} saved its best step as model {', '.join(map(str, models))}, and would diverge again: "
                "start a new run with a lower rate"
            )
        return self._require_change(project, run, ExecutionState.QUEUED, (ExecutionState.FAILED,), "resumed")

    def finish_run(
        self, project: Project, run: Run, metrics: dict[str, Any], sha256: str, tasks: Sequence[str], reason: str = "",
        state: ExecutionState | None = None,
    ) -> bool:  # fmt: skip
        """Ends a running run and stores its adapter as one model per task. Returns False if the run was cancelled.

        `tasks`: none if its adapter is not kept. With a `reason`, the run has failed, but its adapter is usable,
        unless another `state` is given.
        """
        state = state or (ExecutionState.FAILED if reason else ExecutionState.DONE)
        values = {"state": state, "reason": clean_text(reason), "ended": time.time(), "metrics": json.dumps(metrics)}
        with self._database.begin_write() as connection:
            update = sa.update(RunRow).where(RunRow.id == run.id, RunRow.state == ExecutionState.RUNNING)
            if not connection.execute(update.values(**values)).rowcount:
                return False
            model = {"project_id": project.id, "run_id": run.id, "sha256": sha256, "created": time.time()}
            if tasks:
                connection.execute(sa.insert(ModelRow), [{**model, "task": task} for task in tasks])
        return True

    def list_model_ids(self, runs: Sequence[Run]) -> dict[int, list[int]]:
        """Returns the IDs of the models that each run has produced, by the ID of the run."""
        model_ids: dict[int, list[int]] = {run.id: [] for run in runs}
        statement = sa.select(ModelRow.run_id, ModelRow.id).where(ModelRow.run_id.in_(model_ids)).order_by(ModelRow.id)
        with self._database.begin_read() as connection:
            for row in connection.execute(statement):
                model_ids[row.run_id].append(row.id)
        return model_ids

    def _require_change(
        self, project: Project, run: Run, to: ExecutionState, states: Sequence[ExecutionState], changed: str
    ) -> Run:
        """Changes a run's state and returns the run. Raises InvalidStateError."""
        # The tuner may take a run that was queued before it is read again.
        was_changed, now = self.change_state(run, to, states), self.get_run(project, run.id)
        if not was_changed and now.state is not to:
            raise InvalidStateError(f"run {run.id} is {now.state}; only {' or '.join(states)} runs can be {changed}")
        return now


def _to_run(row: sa.Row[Any]) -> Run:
    return Run(
        row.id, row.initial_model_id, json.loads(row.config), row.folder, row.dataset_hash, row.train_images,
        row.holdout_images, ExecutionState(row.state), row.reason, json.loads(row.metrics), row.author, row.created,
        row.started, row.ended,
    )  # fmt: skip
