"""The rules of promotions: what a model has to have won, and who answers again after a rollback."""

from collections.abc import Sequence

from server.store.projects.records import (
    ENOUGH,
    Backtest,
    ModelVersion,
    NothingPromotedError,
    Project,
    Promotion,
    PromotionNotEarnedError,
)


def check(model: ModelVersion, champion: int | None, test: Backtest | None) -> None:
    """Whether it may answer in place of the champion (None: the base alone), by its newest backtest against that.
    Raises NotEarned."""
    against = "the base" if champion is None else f"model {champion}"
    force = "; or force it, with a reason"
    if test is None or test.figures is None:
        raise PromotionNotEarnedError(
            f"model {model.id} has no backtest against {against}, which answers for {model.task} now: begin one by "
            f"POST …/backtests and wait for its end{force}"
        )
    figures = test.figures
    if len(test.tallies) < ENOUGH:
        raise PromotionNotEarnedError(
            f"model {model.id} had its backtest {test.id} against {against} on {len(test.tallies)} held-out pictures, "
            f"and fewer than {ENOUGH} tell nothing for sure: correct more pictures and test again{force}"
        )
    if not test.won:
        raise PromotionNotEarnedError(
            f"model {model.id} did not win its backtest {test.id} against {against}: {figures.challenger:.1f} "
            f"corrections per 100 labels against {figures.champion:.1f}, and the difference lies between "
            f"{figures.low:+.1f} and {figures.high:+.1f} (95 %), not wholly below 0: correct more pictures, tune and "
            f"test again{force}"
        )


def before(history: Sequence[Promotion], project: Project, task: str) -> int | None:
    """Who answered before the champion, None: the base alone, by all promotions there were, the oldest first. Raises
    NothingPromoted where nobody is promoted."""
    stack: list[int | None] = [None]
    for each in history:
        if each.back:
            stack.pop()
        else:
            stack.append(each.model)
    if len(stack) == 1:
        raise NothingPromotedError(f"no model of {project.name} is promoted for {task}: the base alone answers")
    return stack[-2]
