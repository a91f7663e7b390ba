"""Micro-batches: the parts of a batch that threads process in parallel.

On a CPU, threads with some images each are faster than the same number of threads inside every small matrix product.
"""

from dataclasses import dataclass, replace

import torch

from finetune import forward
from finetune.losses import IGNORE, AnswerLoss, LossConfig, sum_token_weights
from finetune.tuning.batches import TrainingBatch

MAX_THREADS = 4
_IMAGE_COST, _PROMPT_COST = 400, 100  # of the vision encoder and of a prompt, in tokens of an answer


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Some images of a batch with their prompts. `weights`: of the means over its tokens in the means of the batch."""

    batch: TrainingBatch
    weights: AnswerLoss


def split_batch(
    batch: TrainingBatch, count: int, pad: int, first_location: int, config: LossConfig, *, vision_work: float = 1.0
) -> list[MicroBatch]:
    """Splits a batch into up to `count` micro-batches with about the same work.

    The sum of their losses, each multiplied by its weights, is the loss of the batch. Images without prompts are left
    out. `vision_work`: the share of the vision encoder's work that is not cached, 0 to 1.
    """
    costs = torch.zeros(len(batch.pixels), dtype=torch.long)
    costs.index_add_(0, batch.owner, _PROMPT_COST + (batch.labels != IGNORE).sum(1))
    loads, groups = [0] * count, [list[int]() for _ in range(count)]
    for image in sorted(batch.owner.unique().tolist(), key=lambda i: (-int(costs[i]), i)):
        least = loads.index(min(loads))
        loads[least] += round(_IMAGE_COST * vision_work) + int(costs[image])
        groups[least].append(image)
    total = sum_token_weights(batch.labels, first_location, config)
    micro_batches = []
    for images in filter(None, groups):
        part = select_images(batch, images, pad)
        own = sum_token_weights(part.labels, first_location, config)
        weights = AnswerLoss(*(_divide(getattr(own, n), getattr(total, n)) for n in ("text", "location", "kind")))
        micro_batches.append(MicroBatch(part, weights))
    return micro_batches


def select_images(batch: TrainingBatch, images: list[int], pad: int) -> TrainingBatch:
    """Returns some images of a batch, by index, with their prompts."""
    rows = torch.isin(batch.owner, torch.tensor(images, dtype=torch.long))
    new_index = torch.zeros(len(batch.pixels), dtype=torch.long)
    new_index[images] = torch.arange(len(images))
    prompts, labels = batch.prompts[rows], batch.labels[rows]
    return replace(
        batch, pixels=batch.pixels[images], views=batch.views[images], owner=new_index[batch.owner[rows]],
        prompts=_trim(prompts, pad), labels=_trim(labels, IGNORE),
        replayed=batch.replayed[rows],
    )  # fmt: skip


def _trim(ids: torch.Tensor, fill: int) -> torch.Tensor:
    """Removes columns that are padding in all rows of IDs [n, l]; the length stays rounded."""
    return ids[:, : forward.round_up(int((ids != fill).sum(1).max()) if len(ids) else 0)]


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a / b if b else torch.zeros(())
