"""The seedling's teacher: the weights, the losses of a batch, and one step along them."""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerBase

from finetune import forward
from finetune.losses import IGNORE, alignment_loss, answer_loss
from seedling import architecture
from seedling.dense_heads import LETTERS, DenseHeads, DenseLoss
from seedling.muon import Muon
from seedling.scenes.batches import Batch
from seedling.scenes.glyphs import CATEGORIES
from seedling.scenes.samples import COLOR_NAMES
from seedling.stages import Stage

MEAN = torch.tensor(architecture.MEAN).view(1, 3, 1, 1)
STD = torch.tensor(architecture.STD).view(1, 3, 1, 1)
ASKED = 8.0
"""Weight of the encoder's pointing: few places are asked for, so that its loss is small from the start."""

ALIGNED = 1.0
"""Weight of where the decoder looks while it says something about a place."""


class Teacher:
    """The model, its dense heads, a running average of the weights (EMA), and two optimizers: Muon for the matrices
    between features, AdamW for everything else."""

    def __init__(
        self, model: Florence2ForConditionalGeneration, words: PreTrainedTokenizerBase, accelerator: Accelerator
    ) -> None:
        self.accelerator, self.words = accelerator, words
        ids = words.convert_tokens_to_ids
        self.first_location = int(ids("<loc_0>"))
        dim = model.config.text_config.d_model
        self.model = model.to(accelerator.device)
        early = model.config.vision_config.embed_dim[1]
        words_of = (ids(list(CATEGORIES)), ids(list(LETTERS)), ids(["Ġ" + color for color in COLOR_NAMES]))
        self.heads = DenseHeads(dim, early, *words_of, self.first_location)
        self.heads.to(accelerator.device)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.optimizers = self._optimizers()

    def _optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        parameters = {**dict(self.model.named_parameters()), **dict(self.heads.named_parameters())}
        matrices = [p for n, p in parameters.items() if p.dim() > 1 and "embed" not in n and "shared" not in n]
        # Kernels by channel are no matrices between features.
        hidden = [p for p in matrices if min(p.flatten(1).shape) >= 32]
        kernels = [p for p in matrices if not any(p is h for h in hidden)]
        rest = [p for p in parameters.values() if not any(p is m for m in matrices)]
        self.parameters = [*matrices, *rest]
        return (
            Muon(hidden, weight_decay=0.02),
            torch.optim.AdamW(
                [{"params": kernels, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}],
                lr=1e-3, betas=(0.9, 0.98), fused=True,
            ),
        )  # fmt: skip

    def resize(self, side: int, *, ordered: bool = True) -> None:
        """From here on for pictures of so many pixels a side; the optimizers begin anew. `ordered`: see
        `architecture.resize`."""
        average = copy.deepcopy(self.model)
        average.load_state_dict(self.average)
        for model in (average, self.model):
            architecture.resize(model, side, ordered=ordered)
        self.average = {k: v.detach().clone() for k, v in average.state_dict().items()}
        self.optimizers = self._optimizers()

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, batch: Batch, stage: Stage, within: int, decay: float = 0.998) -> dict[str, float]:
        """One update; returns the parts of the loss.

        Raises FloatingPointError, with the weights as they were, when the loss or its gradient is not finite.
        """
        for group in self.groups:
            group["lr"] = stage.rate_at(within)
        sigma = stage.sigma_at(within)
        with self.accelerator.autocast():
            losses = self.losses(batch, stage, sigma)
        total = losses["total"]
        if not total.isfinite():
            raise FloatingPointError(f"the loss is {total.item()}; the last checkpoint is good, lower the rate")
        self.model.zero_grad(set_to_none=True)
        self.heads.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        self._average_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient is {norm.item()}; the last checkpoint is good, lower the rate")
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            # The average follows young weights closely and old ones slowly.
            weight = 1 - min(decay, (1 + within) / (10 + within))
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, weight)
        return {name: value.item() for name, value in losses.items()} | {"sigma": sigma, "rate": stage.rate_at(within)}

    def _average_gradients(self) -> None:
        """Over all processes, each of which has seen its own pictures."""
        if self.accelerator.num_processes == 1:
            return
        taught = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch._utils._flatten_dense_tensors(taught)
        mean = self.accelerator.reduce(flat, reduction="mean")
        for grad, value in zip(taught, torch._utils._unflatten_dense_tensors(mean, taught), strict=True):
            grad.copy_(value)

    def losses(self, batch: Batch, stage: Stage, sigma: float) -> dict[str, Tensor]:
        """The parts of the loss on one batch, and their weighted sum as `total`."""
        inner = self.model.model
        device = self.accelerator.device
        pixels = (batch.pixels.to(device).float() / 255 - MEAN.to(device)) / STD.to(device)
        with forward.output(inner.vision_tower.blocks[1][-1]) as halfway:  # at twice the grid: [b, c, 2 grid, 2 grid]
            image = inner.get_image_features(pixels).pooler_output
        table = inner.language_model.shared.weight
        early = halfway[0].flatten(2).transpose(1, 2)
        dense: DenseLoss = self.heads(image[:, 1:], early, table, _to(batch.dense, device), sigma)
        parts = {
            "class": dense.classes, "box": dense.boxes, "colour": dense.colors, "letter": dense.letters,
            "order": dense.orders, "sign": dense.signs, "tint": dense.tints,
        }  # fmt: skip
        looked = stage.classes * dense.classes + dense.boxes + dense.colors + dense.tints
        looked = looked + stage.reading * (dense.letters + dense.orders + dense.signs)
        if not stage.prompts:
            return {"total": looked, **parts}
        prompts, labels = batch.prompts.to(device), batch.labels.to(device)
        owner = batch.owner.to(device)
        encoded, mask = forward.encode(self.model, image, owner, prompts)
        asked = self.heads.asked_loss(encoded[:, 1 : image.shape[1]], batch.asked.to(device))
        watched: list[Tensor] = []
        decoded, taught, answers = forward.decode(self.model, encoded, mask, labels, watched)
        answer = answer_loss(self.model.lm_head(decoded), taught, answers, self.first_location, sigma)
        answered = stage.text * answer.text + 0.7 * answer.location + answer.kind
        rows = answers.unique_consecutive()
        looks = batch.looks.to(device)[rows][labels[rows] != IGNORE]
        here, cells = looks >= 0, batch.looked_at.to(device)
        align = alignment_loss(torch.cat(watched)[here, 1 : image.shape[1]], cells[looks[here]], answers[here])
        total = stage.dense * looked + ASKED * asked + ALIGNED * align + answered
        spoken = {"asked": asked, "align": align, "text": answer.text, "location": answer.location, "kind": answer.kind}
        return {"total": total, **parts, **spoken}

    def state(self) -> dict[str, Any]:
        """Everything a stopped run needs to go on."""
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average = {name: value.to(self.accelerator.device) for name, value in state["average"].items()}


def _to(targets: Any, device: torch.device) -> Any:
    return type(targets)(*(getattr(targets, name).to(device) for name in targets.__slots__))


def snapshot(teacher: Teacher, folder: Path) -> None:
    """Writes the averaged weights as a checkpoint folder that florist loads."""
    own = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    teacher.model.load_state_dict(teacher.average)
    architecture.save(teacher.model, teacher.words, folder)
    teacher.model.load_state_dict(own)
