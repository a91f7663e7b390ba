"""Merges the answers of an ensemble's members into one."""

from collections.abc import Sequence

from finetune.ensembling import fuse_boxes, route_classes
from prompts.annotations import Annotation
from server.store.projects.ensembles import BoxFusion, LabelRouting, describe_model


def merge_answers(ensemble: BoxFusion | LabelRouting, answers: Sequence[Sequence[Annotation]]) -> Sequence[Annotation]:
    """Returns the annotations of the ensemble. `answers`: of each member, in the order of `member_ids`."""
    match ensemble:
        case BoxFusion():
            fused = fuse_boxes(answers, ensemble.weights, ensemble.iou_threshold)
            return [box for box in fused if (box.score or 0.0) >= ensemble.min_score]
        case LabelRouting():
            names = map(describe_model, ensemble.member_ids)
            by_name = dict(zip(names, answers, strict=True))
            routes = {label: describe_model(member) for label, member in ensemble.routes.items()}
            return route_classes(by_name, routes, describe_model(ensemble.default))
