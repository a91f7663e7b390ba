"""Backtests in both databases."""

import pytest

from server.store.projects.errors import NotFoundError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ExecutionState, ImageCounts, Project
from tests.server.store.projects.stored_records import WON, add_backtest, add_model


def test_a_backtest_is_stored_with_its_result(store: ProjectStore, project: Project) -> None:
    model = add_model(store, project)
    backtest_id = add_backtest(store, project, model, WON)
    stored = store.backtests.get_backtest(project, backtest_id)
    assert (stored.comparison, stored.champion_id, stored.challenger_id, stored.state) == (
        WON, None, model.id, ExecutionState.DONE,
    )  # fmt: skip
    assert len(stored.image_counts) == 10
    assert stored.image_counts[9] == ImageCounts(f"{9:064}", (1, 0, 0, 0, 0, 2), (0,) * 6)
    with pytest.raises(NotFoundError):
        store.backtests.get_backtest(project, backtest_id + 1)
