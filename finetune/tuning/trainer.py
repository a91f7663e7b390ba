"""The training step: the loss of a batch, the optimizer, and the moving average of the parameters."""

import math
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from threading import Barrier
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from finetune import forward
from finetune.losses import AnswerLoss, LossConfig, compute_answer_loss
from finetune.tuning.batches import TrainingBatch
from finetune.tuning.config import Anchor, Method, TuneConfig
from finetune.tuning.frozen_features import FrozenFeatureCache
from finetune.tuning.micro_batches import MAX_THREADS, MicroBatch, select_images, split_batch
from finetune.tuning.pretrained import load_pretrained
from finetune.tuning.trainable import TrainableParameters

_DROPOUT_STREAM = 6  # of random numbers, with the seed of the run


class Trainer:
    """A model in training: its loss, its optimizer, and the exponential moving average (EMA) of its parameters."""

    def __init__(self, config: TuneConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.pretrained = load_pretrained(config, accelerator.device)
        self.trainable = TrainableParameters(self.pretrained, config)
        self.model = self.pretrained.model
        self.optimizer = torch.optim.AdamW(
            self.trainable.build_parameter_groups(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
        )
        self.average = {n: p.detach().clone() for n, p in self.trainable.parameters.items()}
        self.feature_cache = FrozenFeatureCache()
        self.loss_config = LossConfig(config.location_sigma, config.label_smoothing, config.focal_gamma)
        self.threads = self._count_threads()

    def step(self, batches: Sequence[TrainingBatch], number: int) -> dict[str, float]:
        """Updates the parameters by the mean gradient of the batches; returns the parts of the loss.

        Raises FloatingPointError, in every process and without an update, if the loss or its gradient is NaN or Inf in
        any process.
        """
        parameters = list(self.trainable.parameters.values())
        # The random state depends on the step and the process, so that a resumed run continues identically.
        stream = (self.config.seed, _DROPOUT_STREAM, number, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(stream).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.compute_learning_rate(number) * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        parts: dict[str, float] = defaultdict(float)
        failure: FloatingPointError | None = None
        try:
            for batch in batches:
                for name, value in self._add_gradients(batch, 1 / len(batches)).items():
                    parts[name] += value.item() / len(batches)
        except FloatingPointError as error:
            failure = error
            # The other processes wait for this gradient; NaN tells them about the failure.
            parameters[0].grad = torch.full_like(parameters[0], math.nan)
        self._average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        if failure is not None:
            raise failure
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient is {norm.item()}")
        if self.threads > 1:  # in one thread of the pool: for many small tensors more cores only wait for each other
            self.pool.submit(self.optimizer.step).result()
        else:
            self.optimizer.step()
        self._update_average(number)
        return {**parts, "learning_rate": self.config.compute_learning_rate(number)}

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The threads for micro-batches. They share the cores."""
        cores, started = torch.get_num_threads(), Barrier(self.threads + 1)

        def initialize() -> None:
            torch.get_num_threads()  # otherwise the first operation would reset the number
            torch.set_num_threads(max(1, cores // self.threads))

        pool = ThreadPoolExecutor(self.threads, "florist-train", initializer=initialize)
        for _ in range(self.threads):
            pool.submit(started.wait)
        started.wait()
        torch.set_num_threads(cores)  # threads that start later use the last number that was set
        return pool

    def _count_threads(self) -> int:
        """Returns the number of micro-batches of a batch.

        With dropout, which needs one random state, and with the L2-SP anchor, which no micro-batch has a part of, it
        is 1.
        """
        config = self.config
        is_random = config.dropout or config.drop_path or (config.method is Method.LORA and config.lora_dropout)
        if self.accelerator.device.type != "cpu" or is_random or config.anchor is Anchor.L2SP:
            return 1
        cores = torch.get_num_threads()
        return max(n for n in range(1, MAX_THREADS + 1) if cores % n == 0 and n <= config.batch_size)

    def _add_gradients(self, batch: TrainingBatch, scale: float) -> dict[str, Tensor]:
        """Returns the parts of the loss of a batch, and adds `scale` times its gradient to the parameters.

        Raises FloatingPointError.
        """
        micro_batches: list[MicroBatch] = []
        if self.threads > 1 and len(batch.owner):
            micro_batches = split_batch(
                batch, self.threads, self.pretrained.pad, self.pretrained.first_location, self.loss_config,
                vision_work=1 - self.config.cached_stages / 4,
            )  # fmt: skip
        if len(micro_batches) < 2:
            with self.accelerator.autocast():
                losses = self.compute_losses(batch)
            _check_finite(losses["loss"])
            if losses["loss"].requires_grad:
                self.accelerator.backward(losses["loss"] * scale)
            return losses
        base_predictions: list[Tensor] = []
        if self.config.anchor is Anchor.KL:  # before the threads start, since weights are changed in place
            with self.accelerator.autocast():
                base_predictions = self._predict_with_base([micro.batch for micro in micro_batches])
        tokens = max(1, sum(map(len, base_predictions)))
        parameters = list(self.trainable.parameters.values())

        def process(
            micro: MicroBatch, base_prediction: Tensor | None
        ) -> tuple[dict[str, Tensor], Sequence[Tensor | None]]:
            with self.accelerator.autocast():
                answer, logits, replayed = self._compute_answer_loss(micro.batch, self.encode_images(micro.batch))
                anchor = None
                if base_prediction is not None:
                    anchor = _sum_divergence(base_prediction, logits[replayed]) / tokens
                losses = self._combine_losses(answer, micro.weights, anchor)
            _check_finite(losses["loss"])
            return losses, torch.autograd.grad(losses["loss"] * scale, parameters, allow_unused=True)

        total: dict[str, Tensor] = {}
        for losses, gradients in self.pool.map(process, micro_batches, base_predictions or [None] * len(micro_batches)):
            total = {name: value.detach() + total.get(name, 0) for name, value in losses.items()}
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    if parameter.grad is None:  # with the layout of the parameter, which fused optimizers need
                        parameter.grad = torch.zeros_like(parameter)
                    parameter.grad.add_(gradient)
        return total

    def _average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Averages the gradients over all processes."""
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(self.accelerator.reduce(parameter.grad, "mean"))

    @torch.no_grad()
    def _update_average(self, number: int) -> None:
        """Updates the moving average; it follows the parameters faster in the first steps."""
        weight = 1 - min(self.config.ema_decay, (1 + number) / (10 + number))
        for name, parameter in self.trainable.parameters.items():
            self.average[name].lerp_(parameter, weight)

    def compute_losses(self, batch: TrainingBatch, *, anchored: bool = True) -> dict[str, Tensor]:
        """Returns the parts of the loss of a batch, and their weighted sum as `loss`.

        If not `anchored`, it is the loss of the answers alone, which can be compared between runs.
        """
        config, device = self.config, self.accelerator.device
        if not len(batch.owner):  # no prompts
            return {"loss": torch.zeros((), device=device)}
        anchor = config.anchor if anchored else Anchor.NONE
        base = self._predict_with_base([batch])[0] if anchor is Anchor.KL else None
        answer, logits, replayed = self._compute_answer_loss(batch, self.encode_images(batch))
        if base is not None:
            return self._combine_losses(answer, anchor=_sum_divergence(base, logits[replayed]) / max(1, len(base)))
        return self._combine_losses(answer, anchor=self.trainable.compute_distance() if anchor is Anchor.L2SP else None)

    def _compute_answer_loss(self, batch: TrainingBatch, image: Tensor) -> tuple[AnswerLoss, Tensor, Tensor]:
        """Returns the loss of the answers, the logits [n, vocabulary] of their tokens, and which are replayed [n]."""
        device = self.accelerator.device
        owner, prompts, labels = batch.owner.to(device), batch.prompts.to(device), batch.labels.to(device)
        encoded, mask = forward.encode_prompts(self.model, image, owner, prompts)
        states, tokens, answers = forward.decode_answers(self.model, encoded, mask, labels)
        logits = self._compute_logits(states)
        loss = compute_answer_loss(logits, tokens, answers, self.pretrained.first_location, config=self.loss_config)
        return loss, logits, batch.replayed.to(device)[answers]

    def _combine_losses(
        self, answer: AnswerLoss, weights: AnswerLoss | None = None, anchor: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the parts by name, multiplied by `weights`, and their weighted sum."""
        parts = {name: getattr(answer, name) for name in ("text", "location", "kind")}
        if weights:
            parts = {name: value * getattr(weights, name) for name, value in parts.items()}
        config = self.config
        loss = config.text_weight * parts["text"] + config.location_weight * parts["location"] + parts["kind"]
        if anchor is not None:
            loss, parts["anchor"] = loss + config.anchor_weight * anchor, anchor
        return {"loss": loss, **{f"{name}_loss": value for name, value in parts.items()}}

    def encode_images(self, batch: TrainingBatch) -> Tensor:
        """Returns the image tokens [b, tokens, d]."""
        features = self._run_stages(self._encode_frozen(batch), slice(self.config.cached_stages, None))
        tokens: Tensor = self.model.model.multi_modal_projector(features)
        return tokens

    def _encode_frozen(self, batch: TrainingBatch) -> Tensor:
        """Returns the cached features of the frozen stages [b, channels, height, width]; without such, the pixels."""
        stages = self.config.cached_stages
        if not stages:
            return self.normalize(batch.pixels)

        def compute(index: int) -> Tensor:
            with torch.no_grad():
                return self._run_stages(self.normalize(batch.pixels[index : index + 1]), slice(stages))[0]

        return torch.stack(
            [
                self.feature_cache.get_or_compute(view, partial(compute, i))
                for i, view in enumerate(batch.views.tolist())
            ]
        )

    def normalize(self, pixels: Tensor) -> Tensor:
        """Returns the input of the vision encoder [b, 3, height, width]."""
        return self.pretrained.files.preprocessor.normalize(list(pixels.numpy()), self.accelerator.device)

    def _run_stages(self, features: Tensor, stages: slice) -> Tensor:
        """Runs some of DaViT's stages; each is a convolution and blocks."""
        encoder = self.model.model.vision_tower
        for conv, blocks in zip(encoder.convs[stages], encoder.blocks[stages], strict=True):
            features = conv(features)
            for block in blocks:
                features = block(features)
        return features

    @torch.no_grad()
    def _predict_with_base(self, batches: Sequence[TrainingBatch]) -> list[Tensor]:
        """Returns the base's log probabilities [n, vocabulary] of the tokens of each batch's replayed answers.

        The base runs as it is served, without dropout, and so uses no random numbers.
        """
        pad = self.pretrained.pad
        replayed = [select_images(batch, batch.owner[batch.replayed].unique().tolist(), pad) for batch in batches]
        # Before the graph is built, since weights are changed in place
        with self.trainable.use_base(), self.trainable.eval_mode():
            predictions = [self._predict(batch) for batch in replayed]
        torch.clear_autocast_cache()  # it contains casts of the base's weights
        return predictions

    def _predict(self, batch: TrainingBatch) -> Tensor:
        """Returns the log probabilities [n, vocabulary] of the tokens of a batch's answers."""
        device = self.accelerator.device
        if not len(batch.owner):
            return torch.zeros(0, self.model.config.text_config.vocab_size, device=device)
        image = self.encode_images(batch)  # cached features are those of the base too
        encoded, mask = forward.encode_prompts(self.model, image, batch.owner.to(device), batch.prompts.to(device))
        states, _, _ = forward.decode_answers(self.model, encoded, mask, batch.labels.to(device))
        return self._compute_logits(states).float().log_softmax(-1)

    def _compute_logits(self, states: Tensor) -> Tensor:
        """Returns the logits [n, vocabulary] of states [n, d]; n is rounded up for the product."""
        padded = nn.functional.pad(states, (0, 0, 0, forward.round_up(len(states)) - len(states)))
        logits: Tensor = self.model.lm_head(padded)[: len(states)]
        return logits

    def get_state(self) -> dict[str, Any]:
        """Returns what a stopped run needs to continue."""
        parameters = {n: p.detach() for n, p in self.trainable.parameters.items()}
        return {"parameters": parameters, "average": self.average, "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores the result of `get_state`."""
        self.trainable.load_values(state["parameters"])
        self.average = {n: v.to(self.accelerator.device) for n, v in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])


def _sum_divergence(base: Tensor, logits: Tensor) -> Tensor:
    """Returns KL(base ‖ model) in nats, summed over tokens; `base`: log probabilities, both [n, vocabulary]."""
    return (base.exp() * (base - logits.float().log_softmax(-1))).sum()


def _check_finite(loss: Tensor) -> None:
    """Raises FloatingPointError if a loss is NaN or Inf."""
    if not loss.isfinite():
        raise FloatingPointError(f"the loss is {loss.item()}")
