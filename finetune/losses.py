"""Losses over Florence-2's vocabulary, where 1000 of the tokens are places on a line."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

IGNORE = -100


def location_targets(bins: Tensor, sigma: float, count: int = 1000) -> Tensor:
    """A Gaussian of `sigma` bins around each true bin, summing to one. [n] → [n, count].

    A neighbouring bin is nearly right, and a one-hot target says that it is as wrong as any other
    (label smoothing, Szegedy et al. 2016, with the smoothing where the meaning is). The floor of the cross
    entropy is the Gaussian's own entropy, ln(σ·√(2πe)).
    """
    distance = torch.arange(count, device=bins.device) - bins[:, None]
    return torch.softmax(-0.5 * (distance / sigma) ** 2, dim=-1)


def location_loss(logits: Tensor, bins: Tensor, sigma: float, weights: Tensor | None = None) -> Tensor:
    """Cross entropy against `location_targets`, minus its floor, so that 0 is perfect. [n, 1000], [n] → scalar.

    `weights` [n] make the mean a weighted one.

    Within some 3σ of either end the target is a cut Gaussian, whose floor is lower: there perfect is down to -ln 2.
    """
    if not len(bins):
        return logits.sum() * 0
    losses = -(location_targets(bins, sigma, logits.shape[-1]) * logits.log_softmax(-1)).sum(-1)
    loss = losses.mean() if weights is None else (losses * weights).sum() / weights.sum()
    return loss - math.log(sigma * math.sqrt(2 * math.pi * math.e))


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The parts of an answer's loss, each a mean over its own tokens. `kind` asks a location to be a location."""

    text: Tensor
    location: Tensor
    kind: Tensor


def answer_loss(
    logits: Tensor, labels: Tensor, answers: Tensor, first_location: int, sigma: float, count: int = 1000
) -> AnswerLoss:
    """The loss of teacher-forced answers. logits […, vocabulary], labels […], -100 ignored; `answers` […]: the
    number of the answer that each token belongs to.

    Letters: plain cross entropy over the vocabulary. Locations: `location_loss` within the location rows, and the
    negative log share of probability that the location rows hold together. A location weighs one over the root of how
    many its answer has: by tokens alone a polygon's hundred would drown the four of a box.
    """
    logits, labels, answers = logits.flatten(0, -2), labels.flatten(), answers.flatten()
    placed = (labels >= first_location) & (labels < first_location + count)
    spelled = ~placed & (labels != IGNORE)
    letters = logits[spelled].float()
    text = F.cross_entropy(letters, labels[spelled]) if len(letters) else letters.sum() * 0
    chosen = logits[placed].float()
    rows = chosen[:, first_location : first_location + count]
    kind = (chosen.logsumexp(-1) - rows.logsumexp(-1)).mean() if len(chosen) else chosen.sum() * 0
    own = answers[placed]
    weights = own.bincount()[own].float().rsqrt()
    return AnswerLoss(text, location_loss(rows, labels[placed] - first_location, sigma, weights), kind)
