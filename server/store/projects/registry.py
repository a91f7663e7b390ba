"""The registry: runs, the models that they made or that are made of those, their backtests, and who answers."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from server.store import NotNow
from server.store.jobs.job_store.leases import clean
from server.store.projects import promotion_rules
from server.store.projects.ensembles import EnsembleDefinition
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import (
    Backtest,
    BacktestImage,
    BacktestResult,
    ModelVersion,
    NotFoundError,
    Project,
    Promotion,
    Run,
    RunState,
)
from server.store.projects.rows import COMBINED, backtest_of, model_of, promotion_of, run_of
from server.store.tables import BacktestRow, ModelRow, ProjectRow, PromotionRow, RunRow

_OPEN = (RunState.QUEUED, RunState.RUNNING)


class Registry:
    """Of the projects of a store. Methods raise StoreError, and StoreAway where the same call may be made again."""

    def __init__(self, projects: ProjectStore) -> None:
        self.projects, self.store = projects, projects.store

    # Runs

    def add_run(
        self, project: Project, config: dict[str, Any], folder: str, data: str, taught: int, held: int, author: str
    ) -> Run:
        """Queued."""
        number = self._insert(
            RunRow, project, config=json.dumps(config), folder=folder, dataset_hash=data, train_images=taught,
            holdout_images=held,
            state=RunState.QUEUED, reason="", metrics="{}", author=clean(author),
        )  # fmt: skip
        return self.run(project, number)

    def runs(self, project: Project, after: int = 0, limit: int | None = None) -> list[Run]:
        """Those after an id, the oldest first."""
        return [run_of(row) for row in self._rows(RunRow, project, RunRow.id > after, limit)]

    def run(self, project: Project, number: int) -> Run:
        """Raises Missing."""
        rows = self._rows(RunRow, project, RunRow.id == number)
        return run_of(_only(rows, f"the project {project.name} has no run {number}"))

    def next_run(self) -> tuple[Project, Run] | None:
        """The oldest that is to be worked on, and its project."""
        if (row := self._next(RunRow)) is None:
            return None
        return self.projects.project(row.project_id), run_of(row)

    def turn_run(self, run: Run, to: RunState, states: Sequence[RunState], reason: str = "") -> bool:
        """Changes the run's state, if it is one of `states`."""
        values: dict[str, Any] = {"state": to, "reason": clean(reason)}
        if to is RunState.RUNNING:
            values["started"] = sa.func.coalesce(RunRow.started, time.time())
        values["ended"] = None if to in _OPEN else time.time()
        with self.store.writing() as connection:
            change = sa.update(RunRow).where(RunRow.id == run.id, RunRow.state.in_(states)).values(**values)
            return bool(connection.execute(change).rowcount)

    def cancel(self, project: Project, run: Run) -> Run:
        """For good. Raises NotNow."""
        can = (RunState.QUEUED, RunState.RUNNING, RunState.FAILED)
        return self._steered(project, run, RunState.CANCELLED, can, "queued, running or failed can be cancelled")

    def resume(self, project: Project, run: Run) -> Run:
        """Queued again. Raises NotNow, also of what would come to the same end and change a model's adapter."""
        if run.state is RunState.FAILED and (made := self.made([run])[run.id]):
            raise NotNow(
                f"run {run.id} kept what was good as model {', '.join(map(str, made))}, and would come to the same "
                "loss again: tune anew, at a lower rate"
            )
        return self._steered(project, run, RunState.QUEUED, (RunState.FAILED,), "failed can be resumed")

    def finish(
        self, project: Project, run: Run, metrics: dict[str, Any], sha256: str, tasks: Sequence[str], reason: str = ""
    ) -> bool:
        """Done, or failed for a `reason`, and what it made is in the registry, one entry a task; unless it was
        cancelled meanwhile."""
        with self.store.writing() as connection:
            change = sa.update(RunRow).where(RunRow.id == run.id, RunRow.state == RunState.RUNNING)
            ended = {
                "state": RunState.FAILED if reason else RunState.DONE,
                "reason": clean(reason),
                "ended": time.time(),
            }
            if not connection.execute(change.values(**ended, metrics=json.dumps(metrics))).rowcount:
                return False
            made = {"project_id": project.id, "run_id": run.id, "sha256": sha256, "created": time.time()}
            connection.execute(sa.insert(ModelRow), [{**made, "task": task} for task in tasks])
        return True

    # Models

    def made(self, runs: Sequence[Run]) -> dict[int, list[int]]:
        """The ids of the models that each of the runs made."""
        found: dict[int, list[int]] = {run.id: [] for run in runs}
        wanted = sa.select(ModelRow.run_id, ModelRow.id).where(ModelRow.run_id.in_(found)).order_by(ModelRow.id)
        with self.store.reading() as connection:
            for row in connection.execute(wanted):
                found[row.run_id].append(row.id)
        return found

    def models(self, project: Project) -> list[ModelVersion]:
        """The oldest first."""
        return self._models(project, sa.true())

    def model(self, project: Project, number: int) -> ModelVersion:
        """Raises Missing."""
        models = self._models(project, ModelRow.id == number)
        return _only(models, f"the project {project.name} has no model {number}; GET its models lists them")

    def combine(
        self, project: Project, task: str, combined: EnsembleDefinition, sha256: str, folder: str
    ) -> ModelVersion:
        """Adds one that is made of others. `folder`: of its own adapter, empty where it has none."""
        kept = COMBINED.dump_json(combined).decode()
        number = self._insert(ModelRow, project, task=task, sha256=sha256, folder=folder, combination=kept)
        return self.model(project, number)

    # Backtests

    def add_backtest(
        self, project: Project, challenger: ModelVersion, champion: int | None, probe: int, author: str
    ) -> Backtest:
        """Queued; `probe`: by how many scenes or pictures it also tells what was forgotten."""
        forgetting = json.dumps({"probe": probe} if probe else {})
        number = self._insert(
            BacktestRow, project, challenger_id=challenger.id, champion_id=champion, dataset_hash="",
            state=RunState.QUEUED, reason="", image_counts="[]", comparison="null", forgetting=forgetting,
            author=clean(author),
        )  # fmt: skip
        return self.backtest(project, number)

    def backtests(self, project: Project, after: int = 0, limit: int | None = None) -> list[Backtest]:
        """Those after an id, the oldest first."""
        return [backtest_of(row) for row in self._rows(BacktestRow, project, BacktestRow.id > after, limit)]

    def backtest(self, project: Project, number: int) -> Backtest:
        """Raises Missing."""
        rows = self._rows(BacktestRow, project, BacktestRow.id == number)
        return backtest_of(_only(rows, f"the project {project.name} has no backtest {number}"))

    def next_backtest(self) -> tuple[Project, Backtest] | None:
        """The oldest that is to be worked on, and its project."""
        if (row := self._next(BacktestRow)) is None:
            return None
        return self.projects.project(row.project_id), backtest_of(row)

    def end_backtest(
        self, test: Backtest, state: RunState, reason: str = "", data: str = "", tallies: Sequence[BacktestImage] = (),
        figures: BacktestResult | None = None, forgetting: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """What came of it."""
        values = {
            "state": state, "reason": clean(reason), "dataset_hash": data,
            "image_counts": json.dumps(list(map(asdict, tallies))),
            "comparison": json.dumps(figures and asdict(figures)), "ended": time.time(),
            "forgetting": json.dumps(dict(test.forgetting if forgetting is None else forgetting)),
        }  # fmt: skip
        with self.store.writing() as connection:
            connection.execute(sa.update(BacktestRow).where(BacktestRow.id == test.id).values(**values))

    # Who answers

    def promotions(self, project: Project, task: str | None = None) -> list[Promotion]:
        """All there were, the oldest first."""
        return [promotion_of(row) for row in self._rows(PromotionRow, project, _of_task(task))]

    def champion(self, project: Project, task: str) -> int | None:
        """The model that answers; None: the base alone."""
        history = self.promotions(project, task)
        return history[-1].model if history else None

    def promote(self, project: Project, model: ModelVersion, author: str, *, forced: bool, reason: str) -> Promotion:
        """The model answers for its task. Raises NotEarned, unless it is forced, without a newest backtest against the
        champion that was won, and NotNow where it answers already."""
        with self.store.writing() as connection:
            history = self._history(connection, project, model.task)
            champion = history[-1].model if history else None
            if champion == model.id:
                raise NotNow(f"model {model.id} answers for {model.task} already")
            test: Backtest | None = next(
                (
                    backtest_of(row)
                    for row in connection.execute(
                        sa.select(BacktestRow.__table__)
                        .where(
                            BacktestRow.challenger_id == model.id,
                            BacktestRow.champion_id.is_not_distinct_from(champion),
                            BacktestRow.state == RunState.DONE,
                        )
                        .order_by(BacktestRow.id.desc())
                        .limit(1)
                    )
                ),
                None,
            )
            if not forced:
                promotion_rules.check(model, champion, test)
            earned = None if test is None else test.id
            number = connection.scalar(
                _promoted(project, model.task, model.id, author, forced=forced, reason=reason, test=earned)
            )
        return promotion_of(_only(self._rows(PromotionRow, project, PromotionRow.id == number), "it was deleted"))

    def before(self, project: Project, task: str) -> int | None:
        """Who answered before the champion. Raises NothingPromoted where nobody is promoted."""
        return promotion_rules.before(self.promotions(project, task), project, task)

    def rollback(self, project: Project, task: str, author: str, reason: str) -> Promotion:
        """Who answered before the champion answers again. Raises NothingPromoted where nobody is promoted."""
        with self.store.writing() as connection:
            model = promotion_rules.before(self._history(connection, project, task), project, task)
            number = connection.scalar(_promoted(project, task, model, author, back=True, forced=False, reason=reason))
        return promotion_of(_only(self._rows(PromotionRow, project, PromotionRow.id == number), "it was deleted"))

    # Inside

    def _history(self, connection: sa.Connection, project: Project, task: str) -> list[Promotion]:
        """Read by one that will add to it, while nobody else does."""
        connection.execute(sa.select(ProjectRow.id).where(ProjectRow.id == project.id).with_for_update())
        found = sa.select(PromotionRow.__table__).where(PromotionRow.project_id == project.id, _of_task(task))
        return [promotion_of(row) for row in connection.execute(found.order_by(PromotionRow.id))]

    def _insert(self, table: Any, project: Project, **values: Any) -> int:
        row = {"project_id": project.id, "created": time.time(), **values}
        with self.store.writing() as connection:
            return connection.scalar(sa.insert(table).values(**row).returning(table.id)) or 0

    def _rows(
        self, table: Any, project: Project, where: sa.ColumnElement[bool], limit: int | None = None
    ) -> list[sa.Row[Any]]:
        found = sa.select(table.__table__).where(table.project_id == project.id, where)
        with self.store.reading() as connection:
            return list(connection.execute(found.order_by(table.id).limit(limit)))

    def _next(self, table: Any) -> sa.Row[Any] | None:
        found = sa.select(table.__table__).join(ProjectRow, ProjectRow.id == table.project_id)
        mine = found.where(ProjectRow.storage_id == self.projects.home, table.state.in_(_OPEN))
        with self.store.reading() as connection:
            return connection.execute(mine.order_by(table.id).limit(1)).first()

    def _models(self, project: Project, where: sa.ColumnElement[bool]) -> list[ModelVersion]:
        of_run = RunRow.folder.label("run_folder"), RunRow.config, RunRow.dataset_hash, RunRow.metrics
        joined = sa.select(ModelRow.__table__, *of_run).outerjoin(RunRow, RunRow.id == ModelRow.run_id)
        with self.store.reading() as connection:
            found = joined.where(ModelRow.project_id == project.id, where).order_by(ModelRow.id)
            return list(map(model_of, connection.execute(found)))

    def _steered(self, project: Project, run: Run, to: RunState, states: Sequence[RunState], can: str) -> Run:
        """The run after its turn; once turned, it may be further by now. Raises NotNow."""
        turned, now = self.turn_run(run, to, states), self.run(project, run.id)
        if not turned and now.state is not to:
            raise NotNow(f"run {run.id} is {now.state}; what is {can}")
        return now


def _promoted(
    project: Project, task: str, model: int | None, author: str, *, forced: bool, reason: str, back: bool = False,
    test: int | None = None,
) -> Any:  # fmt: skip
    values = {
        "project_id": project.id, "task": task, "model_id": model, "backtest_id": test, "is_rollback": back,
        "forced": forced,
        "reason": clean(reason), "author": clean(author), "created": time.time(),
    }  # fmt: skip
    return sa.insert(PromotionRow).values(**values).returning(PromotionRow.id)


def _of_task(task: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if task is None else PromotionRow.task == task


def _only(rows: Sequence[Any], otherwise: str) -> Any:
    if not rows:
        raise NotFoundError(otherwise)
    return rows[0]
