"""The losses of the dense heads, against plain sums."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from finetune.losses import compute_location_loss
from seedling.dense_heads import LETTERS, MAX_WORD_LENGTH, NOTHING, DenseHeads, DenseLoss, DenseTargets

DIM, EARLY_DIM, CELLS, IMAGES = 16, 8, 9, 2
CATEGORY_IDS, LETTER_IDS, COLOR_IDS, FIRST = [3, 1, 7], list(range(10, 10 + len(LETTERS))), [2, 8], 50
PARTS = ("classes", "boxes", "colors", "letters", "letter_indices", "early_letters", "early_colors")


@pytest.fixture
def heads() -> DenseHeads:
    torch.manual_seed(0)
    return DenseHeads(DIM, EARLY_DIM, CATEGORY_IDS, LETTER_IDS, COLOR_IDS, FIRST)


@pytest.fixture
def cells() -> Tensor:
    return torch.randn(IMAGES, CELLS, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def early_features() -> Tensor:
    return torch.randn(IMAGES, 4 * CELLS, EARLY_DIM, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def table() -> Tensor:
    return F.normalize(torch.randn(FIRST + 1000, DIM, generator=torch.Generator().manual_seed(2)), dim=-1)


@pytest.fixture
def targets() -> DenseTargets:
    generator = torch.Generator().manual_seed(3)
    classes = torch.randint(0, 4, (IMAGES, CELLS), generator=generator)
    boxes = torch.randint(0, 1000, (IMAGES, CELLS, 4), generator=generator)
    letters = torch.randint(0, 1 + len(LETTERS), (IMAGES, CELLS, 2), generator=generator)
    letters[torch.rand(letters.shape, generator=generator) < 0.5] = NOTHING
    early_letters = torch.randint(0, 1 + len(LETTERS), (IMAGES, 4 * CELLS), generator=generator)
    share = torch.rand(IMAGES, CELLS, generator=generator)
    colors = torch.stack([share, 1 - share], -1)
    letter_indices = torch.randint(0, 1 + MAX_WORD_LENGTH, (IMAGES, CELLS, 2), generator=generator)
    letter_indices[letters == NOTHING] = NOTHING
    share = torch.rand(IMAGES, 4 * CELLS, generator=generator)
    early_colors = torch.stack([share, 1 - share], -1)
    return DenseTargets(classes, boxes, colors, letters, letter_indices, early_letters, early_colors)


def total(loss: DenseLoss) -> Tensor:
    return sum((getattr(loss, part) for part in PARTS), torch.tensor(0.0))


def weighted_loss(logits: Tensor, targets: Tensor, nothing: float) -> Tensor:
    """Returns the mean of -log p over rows; rows with the target NOTHING have the weight `nothing`."""
    costs = [-(row.softmax(-1)[int(label)]).log() for row, label in zip(logits, targets, strict=True)]
    weights = [nothing if int(label) == NOTHING else 1.0 for label in targets]
    return sum((c * w for c, w in zip(costs, weights, strict=True)), torch.tensor(0.0)) / sum(weights)


def test_losses_equal_plain_sums(
    heads: DenseHeads, cells: Tensor, early_features: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    loss = heads(cells, early_features, table, targets, 5.0)
    flat = cells.flatten(0, 1)

    def logits(head: int, rows: Tensor) -> Tensor:
        return heads.heads[head](flat) @ rows.T * heads.scale

    classes = targets.classes.flatten()
    rows = torch.cat([heads.nothing[0:1], table[[3, 1, 7]]])
    torch.testing.assert_close(loss.classes, weighted_loss(logits(0, rows), classes, 0.2))
    sides = [
        compute_location_loss(
            logits(1 + side, table[FIRST:])[classes > 0], targets.boxes.flatten(0, 1)[classes > 0, side], 5.0
        )
        for side in range(4)
    ]
    torch.testing.assert_close(loss.boxes, sum(sides, torch.tensor(0.0)) / 4)
    logits_of_colors = heads.color(flat) @ table[COLOR_IDS].T * heads.scale
    per_cell = F.cross_entropy(logits_of_colors, targets.colors.flatten(0, 1), reduction="none")
    background, objects = per_cell[classes == 0], per_cell[classes > 0]
    mean = (objects.sum() + 0.1 * background.sum()) / (len(objects) + 0.1 * len(background))
    torch.testing.assert_close(loss.colors, mean)
    counts = heads.letter_index(flat).view(IMAGES * CELLS, 2, 1 + MAX_WORD_LENGTH).flatten(0, 1)
    torch.testing.assert_close(loss.letter_indices, weighted_loss(counts, targets.letter_indices.flatten(), 0.05))
    rows = torch.cat([heads.nothing[1:2], table[LETTER_IDS]])
    halves = [weighted_loss(logits(5 + half, rows), targets.letters[..., half].flatten(), 0.05) for half in range(2)]
    early = heads.heads[7](early_features.flatten(0, 1)) @ rows.T * heads.scale
    early_letters = weighted_loss(early, targets.early_letters.flatten(), 0.05)
    torch.testing.assert_close(loss.letters, (halves[0] + halves[1]) / 2)
    torch.testing.assert_close(loss.early_letters, early_letters)
    log_shares = heads.early_color(early_features.flatten(0, 1)).log_softmax(-1)
    torch.testing.assert_close(loss.early_colors, -(targets.early_colors.flatten(0, 1) * log_shares).sum(-1).mean())


def test_a_multicolored_background_has_no_color_loss(
    heads: DenseHeads, cells: Tensor, early_features: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    background = targets.classes == NOTHING
    assert background.any()
    multicolored = replace(targets, colors=targets.colors * ~background[..., None])
    logits_of_colors = heads.color(cells[~background]) @ table[COLOR_IDS].T * heads.scale
    expected = F.cross_entropy(logits_of_colors, targets.colors[~background])
    torch.testing.assert_close(heads(cells, early_features, table, multicolored, 5.0).colors, expected)
    without_colors = replace(multicolored, colors=torch.zeros_like(multicolored.colors))
    assert heads(cells, early_features, table, without_colors, 5.0).colors == 0


def test_boxes_count_only_in_cells_with_a_class(
    heads: DenseHeads, cells: Tensor, early_features: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    before = heads(cells, early_features, table, targets, 5.0).boxes
    boxes = targets.boxes.clone()
    boxes[targets.classes == NOTHING] = 999 - boxes[targets.classes == NOTHING]
    torch.testing.assert_close(heads(cells, early_features, table, replace(targets, boxes=boxes), 5.0).boxes, before)
    boxes[targets.classes != NOTHING] = 999 - boxes[targets.classes != NOTHING]
    after = heads(cells, early_features, table, replace(targets, boxes=boxes), 5.0).boxes
    assert abs((after - before).item()) > 1e-3


def test_losses_of_empty_images_are_finite(
    heads: DenseHeads, cells: Tensor, early_features: Tensor, table: Tensor
) -> None:
    cells.requires_grad_()
    empty = DenseTargets(
        torch.zeros(IMAGES, CELLS, dtype=torch.long),
        torch.zeros(IMAGES, CELLS, 4, dtype=torch.long),
        torch.zeros(IMAGES, CELLS, len(COLOR_IDS)),
        torch.zeros(IMAGES, CELLS, 2, dtype=torch.long),
        torch.zeros(IMAGES, CELLS, 2, dtype=torch.long),
        torch.zeros(IMAGES, 4 * CELLS, dtype=torch.long),
        torch.zeros(IMAGES, 4 * CELLS, len(COLOR_IDS)),
    )
    loss = heads(cells, early_features, table, empty, 5.0)
    total(loss).backward()
    assert loss.boxes.item() == 0
    assert total(loss).isfinite()
    assert cells.grad is not None
    assert cells.grad.isfinite().all()


def test_heads_learn_what_every_cell_shows(
    heads: DenseHeads, cells: Tensor, early_features: Tensor, table: Tensor, targets: DenseTargets
) -> None:
    targets = replace(targets, colors=targets.colors.round())  # the loss of mixed shares is never 0
    first = heads(cells, early_features, table, targets, 20.0)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        loss = heads(cells, early_features, table, targets, 20.0)
        total(loss).backward()
        optimizer.step()
    last = heads(cells, early_features, table, targets, 20.0)
    for part in ("classes", "colors", "letters", "letter_indices", "early_letters"):
        assert float(getattr(last, part)) < 0.1 * float(getattr(first, part))
    assert float(last.boxes) < 0.7 * float(first.boxes)  # 16 random dimensions cannot represent a Gaussian


def test_the_state_holds_learned_parameters_only(heads: DenseHeads) -> None:
    """When a run resumes, token ids come from the tokenizer and the rest from the state."""
    assert set(heads.state_dict()) == {name for name, _ in heads.named_parameters()}


def test_relevant_subcells_weigh_three_times_as_much(heads: DenseHeads, cells: Tensor) -> None:
    relevance = torch.rand(IMAGES, CELLS, 16, generator=torch.Generator().manual_seed(5)) < 0.2
    probability = heads.relevance(cells).sigmoid()
    expected = -(3 * probability.log() * relevance + (1 - probability).log() * ~relevance).mean()
    torch.testing.assert_close(heads.compute_relevance_loss(cells, relevance), expected)
    assert heads.compute_relevance_loss(cells[:0], relevance[:0]) == 0
