"""Supervision of every grid cell: what lies here, of what colour, how far its box reaches, which letters stand here,
and whether the prompt asks for it.

A decoder that gets the sequence loss alone never learns to look (shared trials: 50,000 prompts at the prior).
These heads teach the image tokens first, in the decoder's own word space: their answers are read through the tied
embeddings, so what a cell knows is already spelled in the words that the decoder will say. Behind the encoder one
more head says what the prompt asks for: without it the decoder found things, but not the one that was named
(`seedling.md`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from finetune.losses import location_loss

NOTHING = 0  # class and letter 0: nothing here
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
HALVES = 2  # letters narrower than a cell: the left and the right half answer apart
LONGEST = 8  # letters of a word
SHADES = 4  # a cell tells what is asked for on 4 × 4 places of its own


@dataclass(frozen=True, slots=True)
class DenseTargets:
    """For a batch of b pictures of c cells. `classes` [b, c]: 0 nothing, else 1 + category. `boxes` [b, c, 4]: bins,
    meaningful where a class stands. `colours` [b, c, names]: each name's share of what is seen of the object, or the
    background's, none where that is of several. `letters` [b, c, 2]: 0 nothing, else 1 + index in LETTERS. `orders`
    [b, c, 2]: 0 nothing, else 1 + which letter of its word. `signs` [b, 4 c] and `tints` [b, 4 c, names]: letters, and
    the colours' shares of the place itself, on a raster twice as fine in both directions."""

    classes: Tensor
    boxes: Tensor
    colors: Tensor
    letters: Tensor
    orders: Tensor
    signs: Tensor
    tints: Tensor


@dataclass(frozen=True, slots=True)
class DenseLoss:
    """Each a mean. `signs` and `tints`: letters and colours halfway up the tower."""

    classes: Tensor
    boxes: Tensor
    colors: Tensor
    letters: Tensor
    orders: Tensor
    signs: Tensor
    tints: Tensor


class DenseHeads(nn.Module):
    """Small heads on each grid cell's image token; two halfway up the tower, where letters are still told apart by
    place and colours are not yet mixed; and one on the encoder's states (`asked_loss`). Used in training alone, thrown
    away after."""

    category_ids: Tensor
    letter_ids: Tensor
    color_ids: Tensor

    def __init__(
        self, dim: int, early: int, category_ids: list[int], letter_ids: list[int], color_ids: list[int],
        first_location: int,
    ) -> None:  # fmt: skip
        """`early`: channels of the raster halfway up; the ids: the tokens' rows in the tied embedding table."""
        super().__init__()
        heads = 1 + 4 + HALVES
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, dim))
            for inputs in (*[dim] * heads, early)
        )
        self.color = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.tint = nn.Sequential(nn.LayerNorm(early), nn.Linear(early, len(color_ids)))
        self.order = nn.Linear(dim, HALVES * (1 + LONGEST))
        self.asked = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, SHADES * SHADES))
        self.nothing = nn.Parameter(torch.randn(2, dim) * dim**-0.5)  # one for classes, one for letters
        self.register_buffer("category_ids", torch.tensor(category_ids), persistent=False)
        self.register_buffer("letter_ids", torch.tensor(letter_ids), persistent=False)
        self.register_buffer("colour_ids", torch.tensor(color_ids), persistent=False)
        self.first_location = first_location
        self.scale = nn.Parameter(torch.tensor(4.0))  # unit vectors need sharpening before a softmax

    def forward(self, cells: Tensor, halfway: Tensor, table: Tensor, targets: DenseTargets, sigma: float) -> DenseLoss:
        """cells [b, c, dim] (image tokens less the pooled one), halfway [b, 4 c, early], table [vocabulary, dim]."""
        flat = cells.flatten(0, 1)
        classes = targets.classes.flatten()
        here = classes != NOTHING
        weights = torch.ones(1 + len(self.category_ids), device=cells.device)
        weights[NOTHING] = 0.2
        rows = torch.cat([self.nothing[:1], table[self.category_ids]])
        class_loss = F.cross_entropy(self._logits(0, flat, rows), classes, weight=weights)

        places = table[self.first_location : self.first_location + 1000]
        inside = flat[here]
        bins = targets.boxes.flatten(0, 1)[here]
        boxes = [location_loss(self._logits(1 + side, inside, places), bins[:, side], sigma) for side in range(4)]

        shown = (self.color(flat) @ table[self.color_ids].T).float() * self.scale
        told = targets.colors.flatten(0, 1)
        # Of a background there are many cells, all of one colour.
        counts_for = torch.where(here, 1.0, 0.1) * told.sum(-1)
        colors = F.cross_entropy(shown, told, reduction="none")  # 0 where nothing is told
        colors = (colors * counts_for).sum() / counts_for.sum().clamp(min=1e-6)

        rows = torch.cat([self.nothing[1:], table[self.letter_ids]])
        weights = torch.ones(len(rows), device=cells.device)
        weights[NOTHING] = 0.05
        letters = [
            F.cross_entropy(self._logits(5 + h, flat, rows), targets.letters[..., h].flatten(), weight=weights)
            for h in range(HALVES)
        ]
        counts = self.order(flat).float().view(-1, 1 + LONGEST)
        orders = F.cross_entropy(counts, targets.orders.flatten(), weight=weights[: 1 + LONGEST])
        signs = self._logits(5 + HALVES, halfway.flatten(0, 1), rows)
        early = F.cross_entropy(signs, targets.signs.flatten(), weight=weights)
        tints = F.cross_entropy(self.tint(halfway.flatten(0, 1)).float(), targets.tints.flatten(0, 1))
        return DenseLoss(
            class_loss, torch.stack(boxes).mean(), colors, torch.stack(letters).mean(), orders, early, tints
        )

    def asked_loss(self, cells: Tensor, asked: Tensor) -> Tensor:
        """Cross entropy of each place being asked for; what is weighs three times what is not. `cells` [n, c, dim]: the
        encoder's states of the image tokens, less the pooled one; `asked` [n, c, 16]: 1 where the answer lies."""
        if not len(cells):
            return cells.sum() * 0
        weight = torch.tensor(3.0, device=cells.device)
        return F.binary_cross_entropy_with_logits(self.asked(cells).float(), asked.float(), pos_weight=weight)

    def _logits(self, head: int, tokens: Tensor, rows: Tensor) -> Tensor:
        return (self.heads[head](tokens) @ rows.T).float() * self.scale
