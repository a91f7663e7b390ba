"""Supervision of every grid cell: object class, color, distances of the box, letters, and relevance to the prompt.

With the sequence loss alone, the decoder never learns to use the image: in our trials it stayed at the prior after
50,000 prompts. These heads first train the image tokens. They are read through the tied word embeddings, so a cell
represents what it knows in the words that the decoder will generate. One more head behind the encoder predicts what
the prompt asks about. Without it the decoder found objects, but not the one that the prompt named
(docs/measurements/seedling.md).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from finetune.losses import compute_location_loss

NOTHING = 0  # the class and letter of a cell that shows neither
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
HALVES = 2  # letters are narrower than a cell: its left and right half are predicted separately
MAX_WORD_LENGTH = 8
SUBCELLS = 4  # relevance is predicted for 4 × 4 subcells per cell


@dataclass(frozen=True, slots=True)
class DenseTargets:
    """Targets for b images with c cells."""

    classes: Tensor
    """[b, c]: 0 nothing, else 1 + category."""
    boxes: Tensor
    """[b, c, 4]: location bins; valid where `classes` is not 0."""
    colors: Tensor
    """[b, c, colors]: color shares of the object's visible pixels, or of the background; zeros for a background of
    several colors."""
    letters: Tensor
    """[b, c, 2]: 0 nothing, else 1 + index in LETTERS."""
    letter_indices: Tensor
    """[b, c, 2]: 0 nothing, else 1 + index of the letter in its word."""
    early_letters: Tensor
    """[b, 4 c]: as `letters`, on a raster twice as fine in both directions."""
    early_colors: Tensor
    """[b, 4 c, colors]: color shares of the pixels around each point of the fine raster."""


@dataclass(frozen=True, slots=True)
class DenseLoss:
    """Mean losses, by the names of `DenseTargets`. The early ones are taken halfway through the vision encoder."""

    classes: Tensor
    boxes: Tensor
    colors: Tensor
    letters: Tensor
    letter_indices: Tensor
    early_letters: Tensor
    early_colors: Tensor


class DenseHeads(nn.Module):
    """Small heads on each cell's image token, on features halfway through the vision encoder, and on encoder states.

    Halfway, letters still have their exact positions and colors are not mixed yet. The heads are used only in training
    and are not part of a checkpoint.
    """

    category_ids: Tensor
    letter_ids: Tensor
    color_ids: Tensor

    def __init__(
        self, dim: int, early_dim: int, category_ids: list[int], letter_ids: list[int], color_ids: list[int],
        first_location: int,
    ) -> None:  # fmt: skip
        """`early_dim` is the number of channels halfway; the IDs are token IDs, rows of the tied embeddings."""
        super().__init__()
        heads = 1 + 4 + HALVES
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, dim))
            for inputs in (*[dim] * heads, early_dim)
        )
        self.color = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.early_color = nn.Sequential(nn.LayerNorm(early_dim), nn.Linear(early_dim, len(color_ids)))
        self.letter_index = nn.Linear(dim, HALVES * (1 + MAX_WORD_LENGTH))
        self.relevance = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, SUBCELLS * SUBCELLS))
        self.nothing = nn.Parameter(torch.randn(2, dim) * dim**-0.5)  # one for classes, one for letters
        self.register_buffer("category_ids", torch.tensor(category_ids), persistent=False)
        self.register_buffer("letter_ids", torch.tensor(letter_ids), persistent=False)
        self.register_buffer("color_ids", torch.tensor(color_ids), persistent=False)
        self.first_location = first_location
        self.scale = nn.Parameter(torch.tensor(4.0))  # sharpens the softmax over products of unit vectors

    def forward(
        self, cells: Tensor, early_features: Tensor, table: Tensor, targets: DenseTargets, sigma: float
    ) -> DenseLoss:
        """Returns the losses.

        Args:
            cells: [b, c, dim], the image tokens without the pooled one.
            early_features: [b, 4 c, early_dim], features halfway through the vision encoder.
            table: [vocabulary, dim], the tied embeddings.
            targets: What the cells show.
            sigma: Width of the location targets, in bins.
        """
        flat = cells.flatten(0, 1)
        classes = targets.classes.flatten()
        occupied = classes != NOTHING
        weights = torch.ones(1 + len(self.category_ids), device=cells.device)
        weights[NOTHING] = 0.2
        rows = torch.cat([self.nothing[:1], table[self.category_ids]])
        class_loss = F.cross_entropy(self._compute_logits(0, flat, rows), classes, weight=weights)

        locations = table[self.first_location : self.first_location + 1000]
        inside = flat[occupied]
        bins = targets.boxes.flatten(0, 1)[occupied]
        boxes = [
            compute_location_loss(self._compute_logits(1 + side, inside, locations), bins[:, side], sigma)
            for side in range(4)
        ]

        logits = (self.color(flat) @ table[self.color_ids].T).float() * self.scale
        shares = targets.colors.flatten(0, 1)
        # A background has many cells with the same color.
        cell_weights = torch.where(occupied, 1.0, 0.1) * shares.sum(-1)
        colors = F.cross_entropy(logits, shares, reduction="none")  # 0 where the target is all zeros
        colors = (colors * cell_weights).sum() / cell_weights.sum().clamp(min=1e-6)

        rows = torch.cat([self.nothing[1:], table[self.letter_ids]])
        weights = torch.ones(len(rows), device=cells.device)
        weights[NOTHING] = 0.05
        letters = [
            F.cross_entropy(
                self._compute_logits(5 + half, flat, rows), targets.letters[..., half].flatten(), weight=weights
            )
            for half in range(HALVES)
        ]
        logits = self.letter_index(flat).float().view(-1, 1 + MAX_WORD_LENGTH)
        letter_indices = F.cross_entropy(
            logits, targets.letter_indices.flatten(), weight=weights[: 1 + MAX_WORD_LENGTH]
        )
        early = early_features.flatten(0, 1)
        early_letters = F.cross_entropy(
            self._compute_logits(5 + HALVES, early, rows), targets.early_letters.flatten(), weight=weights
        )
        early_colors = F.cross_entropy(self.early_color(early).float(), targets.early_colors.flatten(0, 1))
        return DenseLoss(
            class_loss,
            torch.stack(boxes).mean(),
            colors,
            torch.stack(letters).mean(),
            letter_indices,
            early_letters,
            early_colors,
        )

    def compute_relevance_loss(self, cells: Tensor, relevance: Tensor) -> Tensor:
        """Returns the binary cross-entropy of each subcell being relevant; positives weigh three times as much.

        `cells` [n, c, dim] are the encoder's states of the image tokens without the pooled one; `relevance` [n, c, 16]
        is 1 where the answer lies.
        """
        if not len(cells):
            return cells.sum() * 0
        weight = torch.tensor(3.0, device=cells.device)
        return F.binary_cross_entropy_with_logits(self.relevance(cells).float(), relevance.float(), pos_weight=weight)

    def _compute_logits(self, head: int, tokens: Tensor, rows: Tensor) -> Tensor:
        return (self.heads[head](tokens) @ rows.T).float() * self.scale
