"""Promotions in both databases: a model answers only if it won a backtest, or was forced."""

from typing import Any

import pytest

from server.store import InvalidStateError
from server.store.projects.errors import NothingPromotedError, PromotionNotEarnedError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ExecutionState, ModelVersion, Project
from tests.server.store.projects.stored_records import LOST, WON, add_backtest, add_model


def test_only_a_model_that_won_against_the_champion_is_promoted(store: ProjectStore, project: Project) -> None:
    promotions = store.promotions
    one, two = add_model(store, project), add_model(store, project)

    def promote(model: ModelVersion, **options: Any) -> Any:
        return promotions.promote(project, model, "Ada", **{"forced": False, "reason": "", **options})

    with pytest.raises(
        PromotionNotEarnedError, match=r'has no backtest against the base.*"forced": true and a "reason"'
    ):
        promote(one)
    add_backtest(store, project, one, LOST)
    with pytest.raises(
        PromotionNotEarnedError, match=r"49\.0 corrections per 100 labels against 50\.0.*-3\.0 and \+1\.0"
    ):
        promote(one)
    add_backtest(store, project, one, WON, images=9)
    with pytest.raises(
        PromotionNotEarnedError, match=r'had 9 holdout images, and at least 10 are needed.*"forced": true'
    ):
        promote(one)
    against_base = add_backtest(store, project, one, WON)
    assert promote(one).backtest_id == against_base
    assert promotions.find_champion(project, "<OD>") == one.id
    with pytest.raises(InvalidStateError, match="already answers <OD>"):
        promote(one)
    # A backtest that was won against the base model says nothing about the next champion.
    store.backtests.add_backtest(project, two, None, 0, "Ada")
    store.backtests.end_backtest(store.backtests.list_backtests(project)[-1], ExecutionState.DONE, comparison=WON)
    with pytest.raises(PromotionNotEarnedError, match=f"has no backtest against model {one.id}"):
        promote(two)
    forced = promote(two, forced=True, reason="I know better")
    assert (forced.forced, forced.reason, forced.author) == (True, "I know better", "Ada")
    assert promotions.find_champion(project, "<OD>") == two.id
    assert promotions.find_champion(project, "<CAPTION>") is None


def test_rollbacks_go_back_one_promotion_at_a_time(store: ProjectStore, project: Project) -> None:
    promotions = store.promotions
    one, two = add_model(store, project), add_model(store, project)
    for model in (one, two):
        promotions.promote(project, model, "Ada", forced=True, reason="a test")
    assert promotions.find_previous(project, "<OD>") == one.id
    assert promotions.roll_back(project, "<OD>", "Ada", "worse").model_id == one.id
    assert promotions.roll_back(project, "<OD>", "Ada", "").model_id is None
    with pytest.raises(NothingPromotedError):
        promotions.roll_back(project, "<OD>", "Ada", "")
    promotions.promote(project, two, "Ada", forced=True, reason="again")
    assert promotions.roll_back(project, "<OD>", "Ada", "").model_id is None
    assert [(p.model_id, p.is_rollback) for p in promotions.list_promotions(project)] == [
        (one.id, False),
        (two.id, False),
        (one.id, True),
        (None, True),
        (two.id, False),
        (None, True),
    ]
