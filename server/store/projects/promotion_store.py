"""The promotions of projects: the current and earlier champions of each task."""

import time
from typing import Any

import sqlalchemy as sa

from server.store import InvalidStateError
from server.store.database import Database
from server.store.projects import promotion_rules
from server.store.projects.backtest_store import to_backtest
from server.store.projects.errors import NotFoundError
from server.store.projects.queries import require_one, select_rows
from server.store.projects.records import Backtest, ExecutionState, ModelVersion, Project, Promotion
from server.store.tables import BacktestRow, ProjectRow, PromotionRow
from server.store.text import clean_text


class PromotionStore:
    """Stores promotions and rollbacks. Raises what ProjectStore raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_promotions(self, project: Project, task: str | None = None) -> list[Promotion]:
        """Returns all promotions of a task, or of all tasks, oldest first."""
        return list(map(_to_promotion, select_rows(self._database, PromotionRow, project, _has_task(task))))

    def list_newest(self, project: Project, limit: int) -> list[Promotion]:
        """Returns the newest promotions of all tasks, oldest first."""
        statement = sa.select(PromotionRow.__table__).where(PromotionRow.project_id == project.id)
        with self._database.begin_read() as connection:
            rows = connection.execute(statement.order_by(PromotionRow.id.desc()).limit(limit)).all()
        return list(map(_to_promotion, reversed(rows)))

    def list_champions(self, project: Project) -> dict[str, int | None]:
        """Returns the ID of the model that answers each task with promotions; None for the base model."""
        newest = sa.select(sa.func.max(PromotionRow.id)).where(PromotionRow.project_id == project.id)
        statement = sa.select(PromotionRow.task, PromotionRow.model_id)
        statement = statement.where(PromotionRow.id.in_(newest.group_by(PromotionRow.task)))
        with self._database.begin_read() as connection:
            return {row.task: row.model_id for row in connection.execute(statement)}

    def find_champion(self, project: Project, task: str) -> int | None:
        """Returns the ID of the model that answers; None for the base model."""
        history = self.list_promotions(project, task)
        return history[-1].model_id if history else None

    def find_previous(self, project: Project, task: str) -> int | None:
        """Returns the ID of the champion before the current one; None for the base model. Raises
        NothingPromotedError."""
        return promotion_rules.find_previous(self.list_promotions(project, task), project, task)

    def promote(self, project: Project, model: ModelVersion, author: str, *, forced: bool, reason: str) -> Promotion:
        """Makes a model the champion of its task.

        Raises PromotionNotEarnedError if the newest backtest against the champion was not won, unless `forced`, and
        InvalidStateError if the model is the champion already.
        """
        with self._database.begin_write() as connection:
            history = self._lock_history(connection, project, model.task)
            champion_id = history[-1].model_id if history else None
            if champion_id == model.id:
                raise InvalidStateError(f"model {model.id} already answers {model.task}")
            backtest = _find_backtest(connection, model, champion_id)
            if not forced:
                promotion_rules.check_promotion(model, champion_id, backtest)
            promotion_id = connection.scalar(
                _insert(
                    project, model.task, model.id, author, reason, forced=forced,
                    backtest_id=None if backtest is None else backtest.id,
                )
            )  # fmt: skip
        return self._get_promotion(project, promotion_id or 0)

    def roll_back(self, project: Project, task: str, author: str, reason: str) -> Promotion:
        """Makes the previous model the champion again. Raises NothingPromotedError."""
        with self._database.begin_write() as connection:
            model_id = promotion_rules.find_previous(self._lock_history(connection, project, task), project, task)
            promotion_id = connection.scalar(_insert(project, task, model_id, author, reason, is_rollback=True))
        return self._get_promotion(project, promotion_id or 0)

    def _get_promotion(self, project: Project, promotion_id: int) -> Promotion:
        rows = select_rows(self._database, PromotionRow, project, PromotionRow.id == promotion_id)
        return _to_promotion(require_one(rows, f"project {project.name} was deleted"))

    def _lock_history(self, connection: sa.Connection, project: Project, task: str) -> list[Promotion]:
        """Returns a task's promotions, oldest first. Locks the project: nobody else can add one until the transaction
        ends."""
        lock = sa.select(ProjectRow.id).where(ProjectRow.id == project.id).with_for_update()
        if connection.scalar(lock) is None:
            raise NotFoundError(f"project {project.name} was deleted")
        statement = sa.select(PromotionRow.__table__).where(PromotionRow.project_id == project.id, _has_task(task))
        return [_to_promotion(row) for row in connection.execute(statement.order_by(PromotionRow.id))]


def _find_backtest(connection: sa.Connection, model: ModelVersion, champion_id: int | None) -> Backtest | None:
    """Returns the newest finished backtest of a model against a champion."""
    statement = sa.select(BacktestRow.__table__).where(
        BacktestRow.challenger_id == model.id,
        BacktestRow.champion_id.is_not_distinct_from(champion_id),
        BacktestRow.state == ExecutionState.DONE,
    )
    row = connection.execute(statement.order_by(BacktestRow.id.desc()).limit(1)).first()
    return None if row is None else to_backtest(row)


def _insert(
    project: Project, task: str, model_id: int | None, author: str, reason: str, *, forced: bool = False,
    is_rollback: bool = False, backtest_id: int | None = None,
) -> Any:  # fmt: skip
    values = {
        "project_id": project.id, "task": task, "model_id": model_id, "backtest_id": backtest_id,
        "is_rollback": is_rollback, "forced": forced, "reason": clean_text(reason), "author": clean_text(author),
        "created": time.time(),
    }  # fmt: skip
    return sa.insert(PromotionRow).values(**values).returning(PromotionRow.id)


def _has_task(task: str | None) -> sa.ColumnElement[bool]:
    return sa.true() if task is None else PromotionRow.task == task


def _to_promotion(row: sa.Row[Any]) -> Promotion:
    return Promotion(
        row.id, row.task, row.model_id, row.backtest_id, bool(row.is_rollback), bool(row.forced), row.reason,
        row.author, row.created,
    )  # fmt: skip
