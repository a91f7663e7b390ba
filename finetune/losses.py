"""Losses over Florence-2's vocabulary, in which 1000 tokens are locations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

IGNORE = -100
_MAX_CLASS_WEIGHT = 8.0  # a label that occurs once among thousands must not dominate the loss


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Settings of the loss. The default is plain cross entropy, with location targets smoothed by σ = 2.5 bins.

    `sigma`: the width of a location's target in bins (`make_location_targets`); 0: one bin, as Microsoft trained. The
    others apply to words and structure tokens only: `smoothing` and `focal` as in `compute_text_loss`, `weights` by
    token ID, above 0, 1 for other tokens. Raises ValueError for values out of range.
    """

    sigma: float = 2.5
    smoothing: float = 0.0
    focal: float = 0.0
    weights: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, not {self.smoothing}")
        for name, value in (("sigma", self.sigma), ("focal", self.focal)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, not {value}")
        for token, weight in self.weights.items():
            if not (token >= 0 and 0 < weight < math.inf):
                raise ValueError(f"weights must map token IDs to numbers above 0, not {token} to {weight}")


def compute_class_weights(counts: Mapping[int, int], strength: float) -> dict[int, float]:
    """Returns the weight (mean count / own count)^strength of each token, limited to 1/8 … 8.

    Strength 1 is the inverse class frequency, 0.5 its square root (Cui et al. 2019, arXiv:1901.05555, section 2), and 0
    changes nothing.
    """
    if not (strength and counts):
        return {}
    mean = sum(counts.values()) / len(counts)
    return {
        token: min(_MAX_CLASS_WEIGHT, max(1 / _MAX_CLASS_WEIGHT, (mean / n) ** strength)) for token, n in counts.items()
    }


def compute_text_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Returns the cross entropy over the vocabulary, modified as `config` says. [n, vocabulary], [n] → scalar.

    With p the softmax of the logits, y the true token, w the weights, ε `smoothing`, γ `focal`, V the number of tokens:

        loss = Σ (1 - p_y)^γ · [-(1 - ε) · w_y · ln p_y - ε/V · Σ_k w_k · ln p_k] / Σ w_y

    ε: label smoothing (Szegedy et al. 2016, section 7), which prevents overconfidence. γ: focal loss (Lin et al. 2017,
    equation 4), which gives less weight to what the model knows. w: class weights, for rare words. Weights and
    smoothing are combined as in `torch.nn.functional.cross_entropy`.
    """
    if not len(logits):
        return logits.sum() * 0
    weights = None
    if config.weights:
        weights = logits.new_ones(logits.shape[-1])
        weights[list(config.weights)] = logits.new_tensor(list(config.weights.values()))
    if not config.focal:
        return F.cross_entropy(logits, labels, weight=weights, label_smoothing=config.smoothing)
    losses = F.cross_entropy(logits, labels, weight=weights, label_smoothing=config.smoothing, reduction="none")
    unsure = 1 - logits.log_softmax(-1).gather(1, labels[:, None])[:, 0].exp()
    # For γ < 1 the slope is infinite at 0; a probability of 1e-6 is negligible.
    focused = unsure.clamp(min=1e-6) ** config.focal * losses
    return focused.sum() / (len(labels) if weights is None else weights[labels].sum())


def make_location_targets(bins: Tensor, sigma: float, count: int = 1000) -> Tensor:
    """Returns a Gaussian of `sigma` bins around each true bin, with sum 1; for 0 the bin alone. [n] → [n, count].

    A neighboring bin is almost correct, but a one-hot target treats it as any other. This is label smoothing (Szegedy
    et al. 2016) along the axis that has a meaning. The minimum of the cross entropy is the entropy of the Gaussian,
    ln(σ·√(2πe)).
    """
    if sigma == 0:
        return F.one_hot(bins, count).float()
    distance = torch.arange(count, device=bins.device) - bins[:, None]
    return torch.softmax(-0.5 * (distance / sigma) ** 2, dim=-1)


def compute_location_loss(logits: Tensor, bins: Tensor, sigma: float, weights: Tensor | None = None) -> Tensor:
    """Returns the cross entropy with `make_location_targets`, minus its minimum, so that 0 is perfect.

    [n, 1000], [n] → scalar.
    `weights` [n] make it a weighted mean. Within about 3σ of the first or last bin the Gaussian is cut off and its
    entropy is lower: a perfect answer there has a loss down to -ln 2.
    """
    if not len(bins):
        return logits.sum() * 0
    losses = -(make_location_targets(bins, sigma, logits.shape[-1]) * logits.log_softmax(-1)).sum(-1)
    loss = losses.mean() if weights is None else (losses * weights).sum() / weights.sum()
    return loss - math.log(sigma * math.sqrt(2 * math.pi * math.e)) if sigma else loss


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The parts of an answer's loss, each a mean over its own tokens.

    `text`: of words and structure tokens; `location`: which location; `kind`: that a location token is a location.
    """

    text: Tensor
    location: Tensor
    kind: Tensor


def sum_token_weights(labels: Tensor, first_location: int, config: LossConfig, count: int = 1000) -> AnswerLoss:
    """Returns the divisor of each part of `compute_answer_loss`, for labels [n, l] with -100 ignored.

    With them the losses of parts of a batch can be weighted so that they add up to the loss of the batch.
    """
    is_location = (labels >= first_location) & (labels < first_location + count)
    words = labels[~is_location & (labels != IGNORE)]
    weights = [config.weights.get(token, 1.0) for token in words.tolist()] if config.weights else [1.0] * len(words)
    locations = is_location.sum(1)
    return AnswerLoss(torch.tensor(sum(weights, 0.0)), locations.float().sqrt().sum(), locations.sum().float())


def compute_answer_loss(
    logits: Tensor,
    labels: Tensor,
    answers: Tensor,
    first_location: int,
    config: LossConfig | float,
    count: int = 1000,
) -> AnswerLoss:
    """Returns the loss of answers with teacher forcing.

    `logits` […, vocabulary]; `labels` […], -100 ignored; `answers` […]: the index of the answer that each token belongs
    to; `config`: a number is the sigma of an otherwise plain loss.

    Words have `compute_text_loss`. Locations have `compute_location_loss` over the location tokens, and as `kind` the
    negative log of the probability of all location tokens together. A location has the weight 1/√n, with n the number
    of locations in its answer: with equal weights the hundreds of a polygon would outweigh the four of a box.
    """
    config = config if isinstance(config, LossConfig) else LossConfig(sigma=config)
    logits, labels, answers = logits.flatten(0, -2), labels.flatten(), answers.flatten()
    is_location = (labels >= first_location) & (labels < first_location + count)
    is_word = ~is_location & (labels != IGNORE)
    text = compute_text_loss(logits[is_word].float(), labels[is_word], config)
    chosen = logits[is_location].float()
    rows = chosen[:, first_location : first_location + count]
    kind = (chosen.logsumexp(-1) - rows.logsumexp(-1)).mean() if len(chosen) else chosen.sum() * 0
    own = answers[is_location]
    weights = own.bincount()[own].float().rsqrt()
    location = compute_location_loss(rows, labels[is_location] - first_location, config.sigma, weights)
    return AnswerLoss(text, location, kind)


def compute_alignment_loss(attention: Tensor, cells: Tensor, answers: Tensor) -> Tensor:
    """Returns the mean Kullback-Leibler divergence of an attention head from its target; 0 is perfect.

    `attention` [n, cells]: log probabilities; `cells` [n, cells]: target probabilities; `answers` [n]: the index of the
    answer of each token, with weights as in `compute_answer_loss`.

    Garg et al. 2019 (arXiv:1909.02074, section 4.2): one head of the second-to-last cross-attention is trained to
    align, so that the next layer knows the place when it predicts the token.
    """
    if not len(attention):
        return attention.sum() * 0
    weights = answers.bincount()[answers].float().rsqrt()
    losses = (torch.special.xlogy(cells, cells) - cells * attention.clamp(min=-100)).sum(-1)
    return (losses * weights).sum() / weights.sum()
