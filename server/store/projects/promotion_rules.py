"""The rules of promotions: when a model may be promoted, and which model a rollback returns to."""

from collections.abc import Sequence

from server.store.projects.ensembles import describe_model
from server.store.projects.errors import NothingPromotedError, PromotionNotEarnedError
from server.store.projects.records import MIN_HOLDOUT_IMAGES, Backtest, ModelVersion, Project, Promotion

_OR_FORCE = '; or force it: promote with "forced": true and a "reason", which is stored'


def check_promotion(model: ModelVersion, champion_id: int | None, backtest: Backtest | None) -> None:
    """Checks whether a model may replace the champion. Raises PromotionNotEarnedError.

    `backtest`: the newest one of the model against this champion.
    """
    champion = describe_model(champion_id)
    if backtest is None or backtest.comparison is None:
        raise PromotionNotEarnedError(
            f"model {model.id} has no backtest against {champion}, which answers {model.task} now, that has ended: "
            f"start one, or wait for the one that runs{_OR_FORCE}"
        )
    images, result = len(backtest.image_counts), backtest.comparison
    if images < MIN_HOLDOUT_IMAGES:
        raise PromotionNotEarnedError(
            f"backtest {backtest.id} of model {model.id} against {champion} had {images} holdout images, and at least "
            f"{MIN_HOLDOUT_IMAGES} are needed: correct more images and test again{_OR_FORCE}"
        )
    if not backtest.won:
        raise PromotionNotEarnedError(
            f"model {model.id} did not win backtest {backtest.id} against {champion}: {result.challenger:.1f} "
            f"corrections per 100 labels against {result.champion:.1f}; the difference is between {result.low:+.1f} "
            f"and {result.high:+.1f} (95 %), not entirely below 0: correct more images, fine-tune and test "
            f"again{_OR_FORCE}"
        )


def find_previous(history: Sequence[Promotion], project: Project, task: str) -> int | None:
    """Returns the ID of the champion before the current one; None for the base model.

    `history`: all promotions of the task, oldest first. Raises NothingPromotedError.
    """
    stack: list[int | None] = [None]
    for promotion in history:
        if promotion.is_rollback:
            stack.pop()
        else:
            stack.append(promotion.model_id)
    if len(stack) == 1:
        raise NothingPromotedError(f"no model of {project.name} is promoted for {task}: the base model answers")
    return stack[-2]
