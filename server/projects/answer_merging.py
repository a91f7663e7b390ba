"""Merges the answers of an ensemble's members into one."""

from collections.abc import Sequence

from finetune.ensembling import fuse_boxes, route_classes
from prompts.annotations import Annotation
from server.store.projects.ensembles import BoxFusion, LabelRouting, model_name


def merge_answers(ensemble: BoxFusion | LabelRouting, answers: Sequence[Sequence[Annotation]]) -> Sequence[Annotation]:
    """Returns the annotations of the ensemble. `answers`: of each member, in the order of `member_ids`."""
    match ensemble:
        case BoxFusion():
            fused = fuse_boxes(answers, ensemble.weights, ensemble.iou_threshold)
            return [box for box in fused if (box.score or 0.0) >= ensemble.min_score]
        case LabelRouting():
            by_name = {model_name(member): answer for member, answer in zip(ensemble.member_ids, answers, strict=True)}
            routes = {label: model_name(member) for label, member in ensemble.routes.items()}
            return route_classes(by_name, routes, model_name(ensemble.default))
