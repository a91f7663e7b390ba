"""Models in both databases."""

import pytest

from server.store.projects.ensembles import AdapterSum, BoxFusion, EnsembleDefinition, LabelRouting
from server.store.projects.errors import PromotionNotEarnedError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Project
from tests.server.store.projects.stored_records import WON, add_backtest, add_model


@pytest.mark.parametrize(
    "definition",
    [
        AdapterSum(combine="add", models=(1, 2), weights=(0.25, -1.5)),
        BoxFusion(combine="fuse", models=(1, None), iou_threshold=0.7),
        LabelRouting(combine="route", models=(1, 2), routes={"bird’s nest": 1, "cat": None}, default=2),
    ],
)
def test_an_ensemble_is_a_model_like_any_other(
    store: ProjectStore, project: Project, definition: EnsembleDefinition
) -> None:
    one = add_model(store, project)
    ensemble = store.models.add_ensemble(project, "<OD>", definition, "7" * 64, "models/x")
    assert ensemble == store.models.get_model(project, ensemble.id)
    assert (ensemble.run_id, ensemble.task, ensemble.sha256, ensemble.folder) == (None, "<OD>", "7" * 64, "models/x")
    assert (ensemble.ensemble, ensemble.dataset_hash, ensemble.metrics) == (definition, "", {})
    assert store.models.list_models(project) == [one, ensemble]
    assert (one.ensemble, one.folder) == (None, "runs/x/training/adapter")
    with pytest.raises(PromotionNotEarnedError, match="has no backtest against the base"):
        store.promotions.promote(project, ensemble, "Ada", forced=False, reason="")
    add_backtest(store, project, ensemble, WON)
    store.promotions.promote(project, ensemble, "Ada", forced=False, reason="")
    assert store.promotions.find_champion(project, "<OD>") == ensemble.id
    assert store.promotions.roll_back(project, "<OD>", "Ada", "").model_id is None
