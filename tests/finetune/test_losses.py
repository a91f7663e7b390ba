"""The losses, compared with plain sums over tokens."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from finetune.losses import (
    IGNORE,
    LossConfig,
    compute_alignment_loss,
    compute_answer_loss,
    compute_class_weights,
    compute_location_loss,
    compute_text_loss,
    make_location_targets,
)

FIRST, COUNT = 7, 40  # a small vocabulary: 7 words, 40 locations, 3 words


def make_gaussian(true_bin: int, sigma: float, count: int) -> list[float]:
    heights = [math.exp(-((k - true_bin) ** 2) / (2 * sigma**2)) for k in range(count)]
    return [h / sum(heights) for h in heights]


def compute_log_probabilities(row: Tensor) -> list[float]:
    heights = [math.exp(v) for v in row.tolist()]
    return [math.log(h / sum(heights)) for h in heights]


def make_logits(labels: list[list[int]], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.tensor(labels)
    return torch.randn(*tensor.shape, FIRST + COUNT + 3, generator=generator).requires_grad_(), tensor


def get_answers(tokens: Tensor) -> Tensor:
    """Returns the answer of each token: its row."""
    return torch.arange(len(tokens))[:, None].expand_as(tokens)


@pytest.mark.parametrize("sigma", [0.7, 2.5, 10.0])
@pytest.mark.parametrize("true_bin", [0, 3, 500, 999])
def test_targets_are_gaussian(true_bin: int, sigma: float) -> None:
    (row,) = make_location_targets(torch.tensor([true_bin]), sigma)
    torch.testing.assert_close(row, torch.tensor(make_gaussian(true_bin, sigma, 1000)), atol=1e-6, rtol=1e-4)
    assert float(row.sum()) == pytest.approx(1)
    assert int(row.argmax()) == true_bin


def test_targets_have_the_mean_and_standard_deviation() -> None:
    (row,) = make_location_targets(torch.tensor([400]), 10.0)
    bins = torch.arange(1000)
    assert float((row * bins).sum()) == pytest.approx(400, abs=1e-2)
    assert float((row * (bins - 400) ** 2).sum() ** 0.5) == pytest.approx(10, abs=1e-2)


def test_location_loss_is_the_mean_cross_entropy_minus_the_entropy() -> None:
    logits = torch.randn(3, COUNT, generator=torch.Generator().manual_seed(1))
    bins, sigma = [0, 12, 39], 2.0
    crosses = [
        -sum(t * p for t, p in zip(make_gaussian(true_bin, sigma, COUNT), compute_log_probabilities(row), strict=True))
        for true_bin, row in zip(bins, logits, strict=True)
    ]
    floor = math.log(sigma) + 0.5 * math.log(2 * math.pi) + 0.5
    assert float(compute_location_loss(logits, torch.tensor(bins), sigma)) == pytest.approx(
        sum(crosses) / 3 - floor, abs=1e-5
    )


@pytest.mark.parametrize("sigma", [2.5, 10.0])
def test_location_loss_is_zero_for_a_perfect_answer_only(sigma: float) -> None:
    bins = torch.tensor([100, 500, 900])
    perfect = make_location_targets(bins, sigma).clamp(min=1e-30).log()
    assert float(compute_location_loss(perfect, bins, sigma)) == pytest.approx(0, abs=1e-3)
    for step in range(1, 6):
        noise = torch.randn(perfect.shape, generator=torch.Generator().manual_seed(step))
        assert float(compute_location_loss(perfect + 0.3 * step * noise, bins, sigma)) > 0.01
    assert float(compute_location_loss(perfect, bins + 3, sigma)) > 0.01


def test_location_loss_of_a_perfect_answer_at_the_border_is_minus_ln_two() -> None:
    """Half of the Gaussian is cut off, so that the entropy is lower by ln 2."""
    bins = torch.tensor([0, 999])
    perfect = make_location_targets(bins, 10.0).clamp(min=1e-30).log()
    assert float(compute_location_loss(perfect, bins, 10.0)) == pytest.approx(-math.log(2), abs=0.1)


def test_location_gradient_is_prediction_minus_target() -> None:
    logits = torch.randn(1, COUNT, generator=torch.Generator().manual_seed(2)).requires_grad_()
    true_bin = torch.tensor([5])
    compute_location_loss(logits, true_bin, 2.0).backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - make_location_targets(true_bin, 2.0, COUNT))


def test_the_loss_without_locations_is_zero() -> None:
    logits = torch.zeros(0, COUNT, requires_grad=True)
    loss = compute_location_loss(logits, torch.zeros(0, dtype=torch.long), 2.0)
    loss.backward()
    assert loss.item() == 0


def test_answer_loss_equals_the_sum_over_tokens() -> None:
    labels = [[0, FIRST, 6, FIRST + COUNT - 1, IGNORE], [FIRST + COUNT, FIRST + 20, IGNORE, IGNORE, IGNORE]]
    logits, tokens = make_logits(labels)
    text, kind, rows, bins = [], [], [], []
    weights = torch.tensor([2**-0.5, 2**-0.5, 1.0])  # the first answer has two locations, the second one
    for row, label in zip(logits.detach().flatten(0, 1), tokens.flatten().tolist(), strict=True):
        logs = compute_log_probabilities(row)
        if FIRST <= label < FIRST + COUNT:
            kind.append(-math.log(sum(math.exp(p) for p in logs[FIRST : FIRST + COUNT])))
            rows.append(row[FIRST : FIRST + COUNT])
            bins.append(label - FIRST)
        elif label != IGNORE:
            text.append(-logs[label])
    loss = compute_answer_loss(logits, tokens, get_answers(tokens), FIRST, 2.0, COUNT)
    assert (len(text), len(kind)) == (3, 3)
    assert float(loss.text) == pytest.approx(sum(text) / 3, abs=1e-5)
    assert float(loss.kind) == pytest.approx(sum(kind) / 3, abs=1e-5)
    one_by_one = [
        compute_location_loss(row[None], torch.tensor([true_bin]), 2.0)
        for row, true_bin in zip(rows, bins, strict=True)
    ]
    expected = (torch.stack(one_by_one) * weights).sum() / weights.sum()
    assert float(loss.location) == pytest.approx(float(expected), abs=1e-5)


def test_kind_falls_and_location_stays_if_all_location_logits_rise() -> None:
    logits, tokens = make_logits([[FIRST + 3, FIRST + 30]])
    raised = logits.detach().clone()
    raised[..., FIRST : FIRST + COUNT] += 20
    before, after = (compute_answer_loss(x, tokens, get_answers(tokens), FIRST, 2.0, COUNT) for x in (logits, raised))
    assert float(after.kind) == pytest.approx(0, abs=1e-6)
    assert float(before.kind) > 0.1
    assert float(after.location) == pytest.approx(float(before.location), abs=1e-5)


def test_ignored_tokens_do_not_matter() -> None:
    logits, tokens = make_logits([[1, FIRST + 2, IGNORE], [IGNORE, 2, FIRST + 9]])
    other = logits.detach().clone()
    other[tokens == IGNORE] = torch.randn(2, other.shape[-1], generator=torch.Generator().manual_seed(9)) * 50
    one, two = (
        compute_answer_loss(logits, tokens, get_answers(tokens), FIRST, 2.0, COUNT),
        compute_answer_loss(other, tokens, get_answers(tokens), FIRST, 2.0, COUNT),
    )
    for part in ("text", "location", "kind"):
        torch.testing.assert_close(getattr(one, part), getattr(two, part))
    (one.text + one.location + one.kind).backward()
    assert logits.grad is not None
    assert not logits.grad[tokens == IGNORE].any()
    assert logits.grad[tokens != IGNORE].any(-1).all()


@pytest.mark.parametrize(
    ("labels", "zero"),
    [
        pytest.param([[1, 2], [3, IGNORE]], {"location", "kind"}, id="all text"),
        pytest.param([[FIRST, FIRST + 5], [FIRST + 39, IGNORE]], {"text"}, id="all locations"),
        pytest.param([[IGNORE, IGNORE]], {"text", "location", "kind"}, id="nothing"),
    ],
)
def test_batches_with_one_kind_of_token_are_finite(labels: list[list[int]], zero: set[str]) -> None:
    logits, tokens = make_logits(labels)
    loss = compute_answer_loss(logits, tokens, get_answers(tokens), FIRST, 2.0, COUNT)
    (loss.text + loss.location + loss.kind).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    for part in ("text", "location", "kind"):
        value = float(getattr(loss, part))
        assert math.isfinite(value)
        assert (value == 0) == (part in zero)


def compute_text_loss_slowly(logits: Tensor, labels: list[int], config: LossConfig) -> float:
    """Computes the formula token by token."""
    total = weight = 0.0
    for row, label in zip(logits.detach(), labels, strict=True):
        logs = compute_log_probabilities(row)
        own = config.weights.get(label, 1.0)
        cross = -(1 - config.smoothing) * own * logs[label]
        cross -= config.smoothing / len(logs) * sum(config.weights.get(k, 1.0) * p for k, p in enumerate(logs))
        total += (1 - math.exp(logs[label])) ** config.focal * cross
        weight += own
    return total / weight


CONFIGS = [
    pytest.param(LossConfig(), id="plain"),
    pytest.param(LossConfig(smoothing=0.1), id="smoothing"),
    pytest.param(LossConfig(focal=2.0), id="focal"),
    pytest.param(LossConfig(focal=0.5, smoothing=0.05), id="focal and smoothing"),
    pytest.param(LossConfig(weights={2: 3.0, 4: 0.1, 9: 0.25}), id="weights"),
    pytest.param(LossConfig(smoothing=0.2, focal=1.5, weights={0: 5.0, 2: 0.5}), id="all"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_text_loss_equals_the_formula(config: LossConfig) -> None:
    labels = [0, 2, 2, 9, 11, 4]
    logits = 2 * torch.randn(len(labels), 12, generator=torch.Generator().manual_seed(4))
    loss = compute_text_loss(logits, torch.tensor(labels), config)
    assert float(loss) == pytest.approx(compute_text_loss_slowly(logits, labels, config), rel=1e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_text_gradients_equal_finite_differences(config: LossConfig) -> None:
    logits = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    labels = torch.tensor([0, 2, 9, 9])
    assert torch.autograd.gradcheck(lambda x: compute_text_loss(x, labels, config), (logits,))


def test_without_focal_text_loss_equals_torch() -> None:
    logits = torch.randn(5, 12, generator=torch.Generator().manual_seed(6))
    labels, weights = torch.tensor([0, 1, 2, 3, 4]), torch.ones(12)
    weights[3] = 4.0
    ours = compute_text_loss(logits, labels, LossConfig(smoothing=0.1, weights={3: 4.0}))
    assert torch.equal(ours, F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1))


def test_focal_reduces_easy_tokens_and_stays_finite() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    ratios = [
        float(
            compute_text_loss(logits[:1], torch.tensor([0]), config)
            / compute_text_loss(logits[1:], torch.tensor([0]), config)
        )
        for config in (LossConfig(focal=0.0), LossConfig(focal=1.0), LossConfig(focal=3.0))
    ]
    assert ratios[0] > 100 * ratios[1] > 10_000 * ratios[2]
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    compute_text_loss(sure, torch.tensor([0]), LossConfig(focal=0.5, smoothing=0.1)).backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()


def test_a_sigma_alone_equals_the_default_config_bit_for_bit() -> None:
    logits, tokens = make_logits([[0, FIRST, 6, FIRST + COUNT - 1, IGNORE], [FIRST + COUNT, FIRST + 20, 1, 2, IGNORE]])
    plain = compute_answer_loss(logits, tokens, get_answers(tokens), FIRST, 2.0, COUNT)
    same = compute_answer_loss(logits, tokens, get_answers(tokens), FIRST, LossConfig(sigma=2.0), COUNT)
    for part in ("text", "location", "kind"):
        assert torch.equal(getattr(plain, part), getattr(same, part))
    spelled = (tokens != IGNORE) & ~((tokens >= FIRST) & (tokens < FIRST + COUNT))
    assert torch.equal(plain.text, F.cross_entropy(logits[spelled], tokens[spelled]))


def test_without_sigma_locations_have_plain_cross_entropy() -> None:
    logits, tokens = make_logits([[FIRST, FIRST + 30], [FIRST + 12, FIRST + 39]])
    loss = compute_answer_loss(logits, tokens, get_answers(tokens), FIRST, LossConfig(sigma=0), COUNT)
    plain = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    torch.testing.assert_close(loss.location + loss.kind, plain)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"smoothing": 1.0}, "smoothing"),
        ({"smoothing": -0.1}, "smoothing"),
        ({"focal": -1.0}, "focal"),
        ({"sigma": math.inf}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"weights": {3: 0.0}}, "weight"),
        ({"weights": {-100: 1.0}}, "weight"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LossConfig(**values)


def test_rare_tokens_have_larger_weights() -> None:
    counts = {5: 1, 6: 3, 7: 8}  # the mean is 4
    assert compute_class_weights(counts, 1.0) == pytest.approx({5: 4.0, 6: 4 / 3, 7: 0.5})
    assert compute_class_weights(counts, 0.5) == pytest.approx({5: 2.0, 6: math.sqrt(4 / 3), 7: math.sqrt(0.5)})
    assert compute_class_weights({1: 1, 2: 10_000}, 1.0)[1] == 8.0
    assert compute_class_weights(counts, 0.0) == compute_class_weights({}, 1.0) == {}


def test_alignment_is_the_weighted_divergence() -> None:
    shares = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    answers = torch.tensor([0, 1, 1])
    assert float(compute_alignment_loss(shares.log(), shares, answers)) == pytest.approx(0, abs=1e-6)
    even = torch.full((3, 3), 1 / 3)
    apart = [math.log(3) - 0.6931472, math.log(3), math.log(3) - 1.0296530]
    root = 2**-0.5
    wanted = (apart[0] + root * (apart[1] + apart[2])) / (1 + 2 * root)
    assert float(compute_alignment_loss(even.log(), shares, answers)) == pytest.approx(wanted, abs=1e-5)


def test_alignment_without_tokens_is_zero_and_a_wrong_cell_is_finite() -> None:
    none = compute_alignment_loss(
        torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    )
    assert float(none) == 0
    logs = torch.tensor([[0.0, -torch.inf]])
    assert float(compute_alignment_loss(logs, torch.tensor([[0.0, 1.0]]), torch.tensor([0]))) == pytest.approx(100)
