"""The pretraining step: the losses of a batch, two optimizers, and a running average of the weights."""

import copy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerBase

from finetune import forward
from finetune.losses import IGNORE, compute_alignment_loss, compute_answer_loss
from seedling import architecture, resizing
from seedling.dense_heads import LETTERS, DenseHeads, DenseLoss
from seedling.muon import Muon
from seedling.scenes.batches import SceneBatch
from seedling.scenes.colors import COLOR_NAMES
from seedling.scenes.glyphs import CATEGORIES
from seedling.stages import Stage

MEAN = torch.tensor(architecture.MEAN).view(1, 3, 1, 1)
STD = torch.tensor(architecture.STD).view(1, 3, 1, 1)
RELEVANCE_WEIGHT = 8.0
"""Few subcells are relevant, so this loss is small from the start."""

ATTENTION_WEIGHT = 1.0
"""Weight of the decoder's attention targets."""


class Pretrainer:
    """The model, its dense heads, an exponential moving average (EMA) of the weights, and two optimizers.

    Muon trains the matrices between features, AdamW everything else.
    """

    def __init__(
        self, model: Florence2ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
    ) -> None:
        self.accelerator, self.tokenizer = accelerator, tokenizer
        to_ids = tokenizer.convert_tokens_to_ids
        self.first_location = int(to_ids("<loc_0>"))
        dim = model.config.text_config.d_model
        self.model = model.to(accelerator.device)
        early_dim = model.config.vision_config.embed_dim[1]
        ids = (to_ids(list(CATEGORIES)), to_ids(list(LETTERS)), to_ids(["Ġ" + color for color in COLOR_NAMES]))
        self.heads = DenseHeads(dim, early_dim, *ids, self.first_location)
        self.heads.to(accelerator.device)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.optimizers = self._make_optimizers()

    def _make_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
        parameters = {**dict(self.model.named_parameters()), **dict(self.heads.named_parameters())}
        matrices = [p for n, p in parameters.items() if p.dim() > 1 and "embed" not in n and "shared" not in n]
        # Depthwise kernels are not matrices between features.
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

    def resize_input(self, image_side: int, *, ordered: bool = True) -> None:
        """Adapts the model and its average to another image size and resets the optimizers.

        See `resizing.resize_input` for `ordered`.
        """
        average = copy.deepcopy(self.model)
        average.load_state_dict(self.average)
        for model in (average, self.model):
            resizing.resize_input(model, image_side, ordered=ordered)
        self.average = {k: v.detach().clone() for k, v in average.state_dict().items()}
        self.optimizers = self._make_optimizers()

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both optimizers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def train_step(self, batch: SceneBatch, stage: Stage, step: int, decay: float = 0.998) -> dict[str, float]:
        """Updates the weights once. `step` counts from the start of the stage; `decay` is that of the average.

        Returns the losses, `sigma` and `learning_rate`. Raises FloatingPointError, without changing any weight, when
        the loss or the gradient is not finite.
        """
        for group in self.groups:
            group["lr"] = stage.compute_learning_rate(step)
        sigma = stage.compute_sigma(step)
        with self.accelerator.autocast():
            losses = self.compute_losses(batch, stage, sigma)
        total = losses["total"]
        if not total.isfinite():
            raise FloatingPointError(f"the loss is {total.item()}: go back to the last checkpoint, lower the rate")
        self.model.zero_grad(set_to_none=True)
        self.heads.zero_grad(set_to_none=True)
        self.accelerator.backward(total)
        self._average_gradients()
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient is {norm.item()}: go back to the last checkpoint, lower the rate")
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            # The average follows the weights closely at the start of a stage, and slowly later.
            weight = 1 - min(decay, (1 + step) / (10 + step))
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, weight)
        values = {name: value.item() for name, value in losses.items()}
        return values | {"sigma": sigma, "learning_rate": stage.compute_learning_rate(step)}

    def _average_gradients(self) -> None:
        """Averages the gradients over all processes, each of which has its own images."""
        if self.accelerator.num_processes == 1:
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch._utils._flatten_dense_tensors(gradients)
        mean = self.accelerator.reduce(flat, reduction="mean")
        for gradient, value in zip(gradients, torch._utils._unflatten_dense_tensors(mean, gradients), strict=True):
            gradient.copy_(value)

    def compute_losses(self, batch: SceneBatch, stage: Stage, sigma: float) -> dict[str, Tensor]:
        """Returns the parts of the loss on one batch, and their weighted sum as `total`."""
        inner = self.model.model
        device = self.accelerator.device
        pixels = (batch.pixels.to(device).float() / 255 - MEAN.to(device)) / STD.to(device)
        with forward.capture_outputs(inner.vision_tower.blocks[1][-1]) as outputs:  # [b, c, 2 grid, 2 grid]
            image = inner.get_image_features(pixels).pooler_output
        table = inner.language_model.shared.weight
        early_features = outputs[0].flatten(2).transpose(1, 2)
        dense: DenseLoss = self.heads(image[:, 1:], early_features, table, _to_device(batch.dense, device), sigma)
        parts = {
            "class": dense.classes, "box": dense.boxes, "color": dense.colors, "letter": dense.letters,
            "letter_index": dense.letter_indices, "early_letter": dense.early_letters,
            "early_color": dense.early_colors,
        }  # fmt: skip
        dense_total = stage.class_weight * dense.classes + dense.boxes + dense.colors + dense.early_colors
        dense_total = dense_total + stage.ocr_weight * (dense.letters + dense.letter_indices + dense.early_letters)
        if not stage.prompts:
            return {"total": dense_total, **parts}
        prompts, labels = batch.prompts.to(device), batch.labels.to(device)
        owner = batch.owner.to(device)
        encoded, mask = forward.encode_prompts(self.model, image, owner, prompts)
        relevance = self.heads.compute_relevance_loss(encoded[:, 1 : image.shape[1]], batch.relevance.to(device))
        weights: list[Tensor] = []
        decoded, tokens, answers = forward.decode_answers(self.model, encoded, mask, labels, weights)
        answer = compute_answer_loss(self.model.lm_head(decoded), tokens, answers, self.first_location, sigma)
        answer_total = stage.text_weight * answer.text + 0.7 * answer.location + answer.kind
        order = answers.unique_consecutive()
        rows = batch.attention_rows.to(device)[order][labels[order] != IGNORE]
        targeted, targets = rows >= 0, batch.attention_targets.to(device)
        attention = compute_alignment_loss(
            torch.cat(weights)[targeted, 1 : image.shape[1]], targets[rows[targeted]], answers[targeted]
        )
        total = stage.dense_weight * dense_total
        total = total + RELEVANCE_WEIGHT * relevance + ATTENTION_WEIGHT * attention + answer_total
        return {
            "total": total, **parts, "relevance": relevance, "attention": attention, "text": answer.text,
            "location": answer.location, "kind": answer.kind,
        }  # fmt: skip

    def get_state(self) -> dict[str, Any]:
        """Returns everything that is needed to resume a run."""
        return {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `get_state`."""
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average = {name: value.to(self.accelerator.device) for name, value in state["average"].items()}

    def save_average(self, folder: Path) -> None:
        """Writes the averaged weights as a checkpoint folder that florist can load."""
        weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        architecture.save_checkpoint(self.model, self.tokenizer, folder)
        self.model.load_state_dict(weights)


def _to_device(targets: Any, device: torch.device) -> Any:
    return type(targets)(*(getattr(targets, name).to(device) for name in targets.__slots__))
