"""Losses over Florence-2's vocabulary, where 1000 of the tokens are places on a line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

IGNORE = -100
_DEAREST = 8.0  # of a class weight: a label that stands once among thousands must not be all that is learnt


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What an answer's loss is made of. As it stands: plain cross entropy, with a place smoothed by σ = 2.5 bins.

    `sigma`: how many bins a location's target is wide (`location_targets`); 0: one bin, as Microsoft taught them. The
    others are about letters, words and structure alone: `smoothing` and `focal` as `text_loss` has them, `weights` by
    token id, above 0, 1 where none is named. Raises ValueError for numbers that make no loss.
    """

    sigma: float = 2.5
    smoothing: float = 0.0
    focal: float = 0.0
    weights: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is a share of the target, 0 up to 1, not {self.smoothing}")
        for name, value in (("sigma", self.sigma), ("focal", self.focal)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is 0 or more, not {value}")
        for token, weight in self.weights.items():
            if not (token >= 0 and 0 < weight < math.inf):
                raise ValueError(f"weights are token ids with numbers above 0, not {token}: {weight}")


def class_weights(counts: Mapping[int, int], strength: float) -> dict[int, float]:
    """Weights of tokens that stand in so many answers: (mean count / own count)^strength, within an eighth and eight.

    Strength 1 is inverse class frequency, 0.5 the square root of it (Cui et al. 2019, arXiv:1901.05555, section 2),
    0 leaves all alike.
    """
    if not (strength and counts):
        return {}
    mean = sum(counts.values()) / len(counts)
    return {token: min(_DEAREST, max(1 / _DEAREST, (mean / n) ** strength)) for token, n in counts.items()}


def text_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Cross entropy over the vocabulary, changed as `config` says. [n, vocabulary], [n] → scalar.

    With p the softmax of the logits, y the true token, w the weights, ε `smoothing`, γ `focal`, V the number of tokens:

        loss = Σ (1 - p_y)^γ · [-(1 - ε) · w_y · ln p_y - ε/V · Σ_k w_k · ln p_k] / Σ w_y

    ε: label smoothing (Szegedy et al. 2016, section 7), which keeps the model from ever surer answers. γ: focal loss
    (Lin et al. 2017, equation 4), which lets what is known already count less. w: class weights, for words that are
    rare or dear. Weights and smoothing together are reckoned as `torch.nn.functional.cross_entropy` does.
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
    # Of what is sure the root's slope is infinite, for a γ below 1; a share of 1e-6 is nothing to the loss.
    focused = unsure.clamp(min=1e-6) ** config.focal * losses
    return focused.sum() / (len(labels) if weights is None else weights[labels].sum())


def location_targets(bins: Tensor, sigma: float, count: int = 1000) -> Tensor:
    """A Gaussian of `sigma` bins around each true bin, summing to one; of 0, that bin alone. [n] → [n, count].

    A neighbouring bin is nearly right, and a one-hot target says that it is as wrong as any other
    (label smoothing, Szegedy et al. 2016, with the smoothing where the meaning is). The floor of the cross
    entropy is the Gaussian's own entropy, ln(σ·√(2πe)).
    """
    if sigma == 0:
        return F.one_hot(bins, count).float()
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
    return loss - math.log(sigma * math.sqrt(2 * math.pi * math.e)) if sigma else loss


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """The parts of an answer's loss, each a mean over its own tokens. `kind` asks a location to be a location."""

    text: Tensor
    location: Tensor
    kind: Tensor


def answer_weights(labels: Tensor, first_location: int, config: LossConfig, count: int = 1000) -> AnswerLoss:
    """What each part of `answer_loss` is divided by, of answers [n, l], -100 ignored: so that parts of a batch can be
    weighed to the mean of the whole."""
    placed = (labels >= first_location) & (labels < first_location + count)
    spelled = labels[~placed & (labels != IGNORE)]
    named = [config.weights.get(token, 1.0) for token in spelled.tolist()] if config.weights else [1.0] * len(spelled)
    places = placed.sum(1)
    return AnswerLoss(torch.tensor(sum(named, 0.0)), places.float().sqrt().sum(), places.sum().float())


def answer_loss(
    logits: Tensor,
    labels: Tensor,
    answers: Tensor,
    first_location: int,
    config: LossConfig | float,
    count: int = 1000,
) -> AnswerLoss:
    """The loss of teacher-forced answers. logits […, vocabulary], labels […], -100 ignored; `answers` […]: the
    number of the answer that each token belongs to. `config`: a number is a sigma, all else being plain.

    Letters: `text_loss`. Locations: `location_loss` within the location rows, and the negative log share of probability
    that the location rows hold together. A location weighs one over the root of how many its answer has: by tokens
    alone a polygon's hundred would drown the four of a box.
    """
    config = config if isinstance(config, LossConfig) else LossConfig(sigma=config)
    logits, labels, answers = logits.flatten(0, -2), labels.flatten(), answers.flatten()
    placed = (labels >= first_location) & (labels < first_location + count)
    spelled = ~placed & (labels != IGNORE)
    text = text_loss(logits[spelled].float(), labels[spelled], config)
    chosen = logits[placed].float()
    rows = chosen[:, first_location : first_location + count]
    kind = (chosen.logsumexp(-1) - rows.logsumexp(-1)).mean() if len(chosen) else chosen.sum() * 0
    own = answers[placed]
    weights = own.bincount()[own].float().rsqrt()
    location = location_loss(rows, labels[placed] - first_location, config.sigma, weights)
    return AnswerLoss(text, location, kind)


def alignment_loss(attention: Tensor, cells: Tensor, answers: Tensor) -> Tensor:
    """How far a head's attention is from where it should look: the mean Kullback-Leibler divergence, 0 when perfect.
    `attention` [n, cells], logs; `cells` [n, cells], shares that sum to one; `answers` [n]: whose token each is; as in
    `answer_loss`, it weighs one over the root of how many its answer has.

    Garg et al. 2019 (arXiv:1909.02074, section 4.2): one head of the last cross-attention but one is taught the
    alignment, so that what it looks at is at hand where the token is chosen.
    """
    if not len(attention):
        return attention.sum() * 0
    weights = answers.bincount()[answers].float().rsqrt()
    losses = (torch.special.xlogy(cells, cells) - cells * attention.clamp(min=-100)).sum(-1)
    return (losses * weights).sum() / weights.sum()
