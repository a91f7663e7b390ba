"""A lesson in shares, which threads are taught at once: on a CPU, threads with a share of the pictures each are faster
than as many threads that share out every small product."""

from dataclasses import dataclass, replace

import torch

from finetune import forward
from finetune.losses import IGNORE, AnswerLoss, LossConfig, answer_weights
from finetune.tuning.batches import Lesson

MOST = 4
_PICTURE, _PROMPT = 400, 100  # what looking at a picture and asking a question cost, in tokens of answers


@dataclass(frozen=True, slots=True)
class Share:
    """Some pictures of a lesson with their prompts. `weights`: what the means over this share's tokens count in those
    over all."""

    lesson: Lesson
    weights: AnswerLoss


def shares(
    lesson: Lesson, count: int, pad: int, first_location: int, config: LossConfig, *, looking: float = 1.0
) -> list[Share]:
    """The lesson in up to `count` shares of about the same work; `looking`: how much of the looking at pictures is yet
    to be done, 0 to 1. Their losses, each weighed by its own weights, add up to that of the whole. Pictures that
    nothing is asked about are left out."""
    costs = torch.zeros(len(lesson.pixels), dtype=torch.long)
    costs.index_add_(0, lesson.owner, _PROMPT + (lesson.labels != IGNORE).sum(1))
    loads, places = [0] * count, [list[int]() for _ in range(count)]
    for picture in sorted(lesson.owner.unique().tolist(), key=lambda i: (-int(costs[i]), i)):
        least = loads.index(min(loads))
        loads[least] += round(_PICTURE * looking) + int(costs[picture])
        places[least].append(picture)
    whole = answer_weights(lesson.labels, first_location, config)
    made = []
    for own in filter(None, places):
        part = some(lesson, own, pad)
        mine = answer_weights(part.labels, first_location, config)
        weights = AnswerLoss(*(_ratio(getattr(mine, n), getattr(whole, n)) for n in ("text", "location", "kind")))
        made.append(Share(part, weights))
    return made


def some(lesson: Lesson, own: list[int], pad: int) -> Lesson:
    """Some of a lesson's pictures, `own`, with what is asked about them."""
    rows = torch.isin(lesson.owner, torch.tensor(own, dtype=torch.long))
    numbers = torch.zeros(len(lesson.pixels), dtype=torch.long)
    numbers[own] = torch.arange(len(own))
    prompts, labels = lesson.prompts[rows], lesson.labels[rows]
    return replace(
        lesson, pixels=lesson.pixels[own], views=lesson.views[own], owner=numbers[lesson.owner[rows]],
        prompts=_narrowed(prompts, pad), labels=_narrowed(labels, IGNORE),
        replayed=lesson.replayed[rows],
    )  # fmt: skip


def _narrowed(ids: torch.Tensor, fill: int) -> torch.Tensor:
    """Ids [n, l] without the columns that are padding in all rows, but for a rounded length."""
    return ids[:, : forward.rounded(int((ids != fill).sum(1).max()) if len(ids) else 0)]


def _ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a / b if b else torch.zeros(())
