"""The dense heads against the sums that they stand for."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from finetune.losses import location_loss
from seedling.dense_heads import LETTERS, LONGEST, NOTHING, DenseHeads, DenseLoss, DenseTargets

DIM, EARLY, CELLS, PICTURES = 16, 8, 9, 2
CATEGORY_IDS, LETTER_IDS, COLOUR_IDS, FIRST = [3, 1, 7], list(range(10, 10 + len(LETTERS))), [2, 8], 50
PARTS = ("classes", "boxes", "colours", "letters", "orders", "signs", "tints")


@pytest.fixture
def heads() -> DenseHeads:
    torch.manual_seed(0)
    return DenseHeads(DIM, EARLY, CATEGORY_IDS, LETTER_IDS, COLOUR_IDS, FIRST)


@pytest.fixture
def cells() -> Tensor:
    return torch.randn(PICTURES, CELLS, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def halfway() -> Tensor:
    return torch.randn(PICTURES, 4 * CELLS, EARLY, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def table() -> Tensor:
    return F.normalize(torch.randn(FIRST + 1000, DIM, generator=torch.Generator().manual_seed(2)), dim=-1)


@pytest.fixture
def targets() -> DenseTargets:
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(0, 4, (PICTURES, CELLS), generator=generator)
    boxes = torch.randint(0, 1000, (PICTURES, CELLS, 4), generator=generator)
    letters = torch.randint(0, 1 + len(LETTERS), (PICTURES, CELLS, 2), generator=generator)
    letters[torch.rand(letters.shape, generator=generator) < 0.5] = NOTHING
    signs = torch.randint(0, 1 + len(LETTERS), (PICTURES, 4 * CELLS), generator=generator)
    share = torch.rand(PICTURES, CELLS, generator=generator)
    colors = torch.stack([share, 1 - share], -1)
    orders = torch.randint(0, 1 + LONGEST, (PICTURES, CELLS, 2), generator=generator)
    orders[letters == NOTHING] = NOTHING
    share = torch.rand(PICTURES, 4 * CELLS, generator=generator)
    tints = torch.stack([share, 1 - share], -1)
    return DenseTargets(classes, boxes, colors, letters, orders, signs, tints)


def total(loss: DenseLoss) -> Tensor:
    return sum((getattr(loss, part) for part in PARTS), torch.tensor(0.0))


def weighted(logits: Tensor, wanted: Tensor, nothing: float) -> Tensor:
    """The mean of -log p over rows, those of nothing counting `nothing` each."""
    costs = [-(row.softmax(-1)[int(label)]).log() for row, label in zip(logits, wanted, strict=True)]
    weights = [nothing if int(label) == NOTHING else 1.0 for label in wanted]
    return sum((c * w for c, w in zip(costs, weights, strict=True)), torch.tensor(0.0)) / sum(weights)


def test_losses_are_the_plain_sums(
    heads: DenseHeads, cells: Tensor, halfway: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    loss = heads(cells, halfway, table, targets, 5.0)
    flat = cells.flatten(0, 1)

    def logits(head: int, rows: Tensor) -> Tensor:
        return heads.heads[head](flat) @ rows.T * heads.scale

    classes = targets.classes.flatten()
    rows = torch.cat([heads.nothing[0:1], table[[3, 1, 7]]])
    torch.testing.assert_close(loss.classes, weighted(logits(0, rows), classes, 0.2))
    sides = [
        location_loss(logits(1 + side, table[FIRST:])[classes > 0], targets.boxes.flatten(0, 1)[classes > 0, side], 5.0)
        for side in range(4)
    ]
    torch.testing.assert_close(loss.boxes, sum(sides, torch.tensor(0.0)) / 4)
    shown = heads.color(flat) @ table[COLOUR_IDS].T * heads.scale
    each = F.cross_entropy(shown, targets.colors.flatten(0, 1), reduction="none")
    behind, here = each[classes == 0], each[classes > 0]
    mean = (here.sum() + 0.1 * behind.sum()) / (len(here) + 0.1 * len(behind))
    torch.testing.assert_close(loss.colors, mean)
    counts = heads.order(flat).view(PICTURES * CELLS, 2, 1 + LONGEST).flatten(0, 1)
    torch.testing.assert_close(loss.orders, weighted(counts, targets.orders.flatten(), 0.05))
    rows = torch.cat([heads.nothing[1:2], table[LETTER_IDS]])
    halves = [weighted(logits(5 + half, rows), targets.letters[..., half].flatten(), 0.05) for half in range(2)]
    early = heads.heads[7](halfway.flatten(0, 1)) @ rows.T * heads.scale
    signs = weighted(early, targets.signs.flatten(), 0.05)
    torch.testing.assert_close(loss.letters, (halves[0] + halves[1]) / 2)
    torch.testing.assert_close(loss.signs, signs)
    told = heads.tint(halfway.flatten(0, 1)).log_softmax(-1)
    torch.testing.assert_close(loss.tints, -(targets.tints.flatten(0, 1) * told).sum(-1).mean())


def test_a_background_of_several_colours_teaches_none(
    heads: DenseHeads, cells: Tensor, halfway: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    behind = targets.classes == NOTHING
    assert behind.any()
    mixed = replace(targets, colors=targets.colors * ~behind[..., None])
    shown = heads.color(cells[~behind]) @ table[COLOUR_IDS].T * heads.scale
    wanted = F.cross_entropy(shown, targets.colors[~behind])
    torch.testing.assert_close(heads(cells, halfway, table, mixed, 5.0).colors, wanted)
    nowhere = replace(mixed, colors=torch.zeros_like(mixed.colors))
    assert heads(cells, halfway, table, nowhere, 5.0).colors == 0


def test_boxes_count_only_where_a_class_stands(
    heads: DenseHeads, cells: Tensor, halfway: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    before = heads(cells, halfway, table, targets, 5.0).boxes
    boxes = targets.boxes.clone()
    boxes[targets.classes == NOTHING] = 999 - boxes[targets.classes == NOTHING]
    torch.testing.assert_close(heads(cells, halfway, table, replace(targets, boxes=boxes), 5.0).boxes, before)
    boxes[targets.classes != NOTHING] = 999 - boxes[targets.classes != NOTHING]
    after = heads(cells, halfway, table, replace(targets, boxes=boxes), 5.0).boxes
    assert abs((after - before).item()) > 1e-3


def test_empty_pictures_are_finite(heads: DenseHeads, cells: Tensor, halfway: Tensor, table: Tensor) -> None:
    cells.requires_grad_()
    none = DenseTargets(
        torch.zeros(PICTURES, CELLS, dtype=torch.long),
        torch.zeros(PICTURES, CELLS, 4, dtype=torch.long),
        torch.zeros(PICTURES, CELLS, len(COLOUR_IDS)),
        torch.zeros(PICTURES, CELLS, 2, dtype=torch.long),
        torch.zeros(PICTURES, CELLS, 2, dtype=torch.long),
        torch.zeros(PICTURES, 4 * CELLS, dtype=torch.long),
        torch.zeros(PICTURES, 4 * CELLS, len(COLOUR_IDS)),
    )
    loss = heads(cells, halfway, table, none, 5.0)
    total(loss).backward()
    assert loss.boxes.item() == 0
    assert total(loss).isfinite()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()


def test_heads_learn_what_every_cell_holds(
    heads: DenseHeads, cells: Tensor, halfway: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    targets = replace(targets, colors=targets.colors.round())  # of shares the loss is never nothing
    first = heads(cells, halfway, table, targets, 20.0)
    learner = torch.optim.Adam(heads.parameters(), lr=0.02)
    for _ in range(150):
        learner.zero_grad()
        loss = heads(cells, halfway, table, targets, 20.0)
        total(loss).backward()
        learner.step()
    last = heads(cells, halfway, table, targets, 20.0)
    for part in ("classes", "colours", "letters", "orders", "signs"):
        assert float(getattr(last, part)) < 0.1 * float(getattr(first, part))
    assert float(last.boxes) < 0.7 * float(first.boxes)  # random rows in 16 dimensions hold no Gaussian


def test_state_holds_what_is_learnt_alone(heads: DenseHeads) -> None:
    """A run goes on from its state: the ids come from the tokenizer, the rest from the file."""
    assert set(heads.state_dict()) == {name for name, _ in heads.named_parameters()}


def test_what_is_asked_for_weighs_three_times(heads: DenseHeads, cells: Tensor) -> None:
    asked = torch.rand(PICTURES, CELLS, 16, generator=torch.Generator().manual_seed(5)) < 0.2
    chance = heads.asked(cells).sigmoid()
    wanted = -(3 * chance.log() * asked + (1 - chance).log() * ~asked).mean()
    torch.testing.assert_close(heads.asked_loss(cells, asked), wanted)
    assert heads.asked_loss(cells[:0], asked[:0]) == 0
