"""The backtests of projects."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

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
from server.store.projects.records import Backtest, ExecutionState, ImageCounts, ModelVersion, PairedComparison, Project
from server.store.tables import BacktestRow
from server.store.text import clean_text


class BacktestStore:
    """Stores backtests. Raises what ProjectStore raises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_backtest(
        self, project: Project, challenger: ModelVersion, champion_id: int | None, forgetting_images: int, author: str
    ) -> Backtest:
        """Stores a queued backtest. `forgetting_images`: maximum number of images of the forgetting evaluation; 0 for
        no evaluation."""
        forgetting = {"forgetting_images": forgetting_images} if forgetting_images else {}
        backtest_id = insert_row(
            self._database, BacktestRow, project, challenger_id=challenger.id, champion_id=champion_id, dataset_hash="",
            state=ExecutionState.QUEUED, reason="", image_counts="[]", comparison="null",
            forgetting=json.dumps(forgetting), author=clean_text(author),
        )  # fmt: skip
        return self.get_backtest(project, backtest_id)

    def plan_page(self, project: Project, after: int, limit: int) -> Page:
        """Returns a page of the backtests with an ID above `after`, oldest first."""
        columns = BacktestRow.image_counts, BacktestRow.forgetting, BacktestRow.reason
        return plan_project_page(self._database, BacktestRow, project, after, limit, *columns)

    def list_backtests(self, project: Project, ids: Sequence[int] | None = None) -> list[Backtest]:
        """Returns the backtests with these IDs, or all, oldest first."""
        where = has_id(BacktestRow, ids)
        return list(map(to_backtest, select_rows(self._database, BacktestRow, project, where)))

    def get_backtest(self, project: Project, backtest_id: int) -> Backtest:
        """Returns a backtest by its ID. Raises NotFoundError."""
        rows = select_rows(self._database, BacktestRow, project, BacktestRow.id == backtest_id)
        return to_backtest(require_one(rows, f"project {project.name} has no backtest {backtest_id}"))

    def find_open_backtest(self, storage_id: str) -> tuple[int, Backtest] | None:
        """Returns the ID of the project and the backtest, for the oldest queued or running backtest of a storage."""
        row = find_open_row(self._database, BacktestRow, storage_id)
        return None if row is None else (row.project_id, to_backtest(row))

    def start_backtest(self, backtest: Backtest) -> None:
        """Marks a queued backtest as running."""
        is_queued = BacktestRow.id == backtest.id, BacktestRow.state == ExecutionState.QUEUED
        with self._database.begin_write() as connection:
            connection.execute(sa.update(BacktestRow).where(*is_queued).values(state=ExecutionState.RUNNING))

    def end_backtest(
        self, backtest: Backtest, state: ExecutionState, reason: str = "", dataset_hash: str = "",
        image_counts: Sequence[ImageCounts] = (), comparison: PairedComparison | None = None,
        forgetting: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Stores the result of a backtest. `forgetting`: None leaves it as it is."""
        values = {
            "state": state, "reason": clean_text(reason), "ended": time.time(), "dataset_hash": dataset_hash,
            "image_counts": json.dumps([asdict(each) for each in image_counts]),
            "comparison": json.dumps(comparison and asdict(comparison)),
            "forgetting": json.dumps(dict(backtest.forgetting if forgetting is None else forgetting)),
        }  # fmt: skip
        with self._database.begin_write() as connection:
            connection.execute(sa.update(BacktestRow).where(BacktestRow.id == backtest.id).values(**values))


def to_backtest(row: sa.Row[Any]) -> Backtest:
    """Converts a row of the table."""
    counts = tuple(
        ImageCounts(each["image_sha256"], tuple(each["champion"]), tuple(each["challenger"]))
        for each in json.loads(row.image_counts)
    )
    comparison = json.loads(row.comparison)
    return Backtest(
        row.id, row.challenger_id, row.champion_id, row.dataset_hash, ExecutionState(row.state), row.reason, row.author,
        row.created, row.ended, counts, comparison and PairedComparison(**comparison), json.loads(row.forgetting),
    )  # fmt: skip
