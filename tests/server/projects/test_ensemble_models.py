"""Which tasks an ensemble can answer. What it answers is tested in test_model_service."""

import pytest

from server.projects.ensemble_models import check_task
from server.projects.errors import InvalidEnsembleError
from server.store.projects.ensembles import AdapterSum, BoxFusion, LabelRouting


def test_only_boxes_can_be_fused_and_only_labels_can_be_routed() -> None:
    fusion = BoxFusion(combine="fuse", models=(1, 2))
    routing = LabelRouting(combine="route", models=(1,), routes={"cat": 1})
    for token in ("<OD>", "<DENSE_REGION_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"):
        check_task(fusion, token)
        check_task(routing, token)
    check_task(routing, "<OPEN_VOCABULARY_DETECTION>")
    check_task(AdapterSum(combine="add", models=(1,)), "<CAPTION>")
    for definition, token in ((fusion, "<OPEN_VOCABULARY_DETECTION>"), (fusion, "<OCR>"), (routing, "<CAPTION>")):
        with pytest.raises(InvalidEnsembleError, match=token):
            check_task(definition, token)
