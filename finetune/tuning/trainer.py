"""One model that learns: the loss of a lesson, an update, and the running average of what was learned."""

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
from finetune.losses import AnswerLoss, LossConfig, answer_loss
from finetune.tuning import pretrained as bases
from finetune.tuning.batches import Lesson
from finetune.tuning.config import Anchor, Method, TuneConfig
from finetune.tuning.frozen_features import Features
from finetune.tuning.micro_batches import MOST, Share, shares, some
from finetune.tuning.trainable import Learner


class Trainer:
    """One model that learns: its losses, its optimizer and the running average of what it learned (EMA)."""

    def __init__(self, config: TuneConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        self.base = bases.load(config, accelerator.device)
        self.learner = Learner(self.base, config)
        self.model = self.base.model
        self.optimizer = torch.optim.AdamW(self.learner.groups(), lr=config.rate, betas=(0.9, 0.98), fused=True)
        self.average = {n: p.detach().clone() for n, p in self.learner.learned.items()}
        self.features = Features()
        self.loss = LossConfig(config.sigma, config.smoothing, config.gamma)
        self.threads = self._side_by_side()

    def step(self, lessons: Sequence[Lesson], number: int) -> dict[str, float]:
        """One update by the mean of the lessons' gradients; returns the parts of the loss.

        Raises FloatingPointError, in every process and with the weights as they were, when the loss or its gradient is
        not finite in any.
        """
        parameters = list(self.learner.learned.values())
        # Of the step and the process: after a stop chance goes on as it would have.
        chance = (self.config.seed, 6, number, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(chance).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate_at(number) * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        parts: dict[str, float] = defaultdict(float)
        fault: FloatingPointError | None = None
        try:
            for lesson in lessons:
                for name, value in self._taught(lesson, 1 / len(lessons)).items():
                    parts[name] += value.item() / len(lessons)
        except FloatingPointError as error:
            fault = error
            # The others wait for this process's gradient, and learn by it that there is none.
            parameters[0].grad = torch.full_like(parameters[0], math.nan)
        self._share(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        if fault is not None:
            raise fault
        if not norm.isfinite():
            raise FloatingPointError(f"the gradient is {norm.item()}")
        if self.threads > 1:  # in one of them: many small tensors, over which cores would wait for each other
            self._pool.submit(self.optimizer.step).result()
        else:
            self.optimizer.step()
        self._follow(number)
        return {**parts, "rate": self.config.rate_at(number)}

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """The threads, with the cores shared out among them."""
        cores, started = torch.get_num_threads(), Barrier(self.threads + 1)

        def begin() -> None:
            torch.get_num_threads()  # else the first operation would undo what comes next
            torch.set_num_threads(max(1, cores // self.threads))

        pool = ThreadPoolExecutor(self.threads, "florist-teach", initializer=begin)
        for _ in range(self.threads):
            pool.submit(started.wait)
        started.wait()
        torch.set_num_threads(cores)  # the number is also what threads that begin later take
        return pool

    def _side_by_side(self) -> int:
        """How many threads take a share of a lesson each. Chance (dropout) wants one, and so does the distance of the
        weights, of which no share has a part."""
        config = self.config
        chance = config.dropout or config.drop_path or (config.method is Method.LORA and config.lora_dropout)
        if self.accelerator.device.type != "cpu" or chance or config.anchor is Anchor.L2SP:
            return 1
        cores = torch.get_num_threads()
        return max(count for count in range(1, MOST + 1) if cores % count == 0 and count <= config.pictures)

    def _taught(self, lesson: Lesson, scale: float) -> dict[str, Tensor]:
        """The parts of the loss on a lesson, `scale` times its gradient added to what the parameters have. Raises
        FloatingPointError."""
        parted: list[Share] = []
        if self.threads > 1 and len(lesson.owner):
            left = 1 - self.config.kept_stages / 4
            parted = shares(lesson, self.threads, self.base.pad, self.base.first_location, self.loss, looking=left)
        if len(parted) < 2:
            with self.accelerator.autocast():
                losses = self.losses(lesson)
            _check(losses["total"])
            if losses["total"].requires_grad:
                self.accelerator.backward(losses["total"] * scale)
            return losses
        said: list[Tensor] = []
        if self.config.anchor is Anchor.KL:  # before any thread begins: to ask the base is to change weights in place
            with self.accelerator.autocast():
                said = self._before([share.lesson for share in parted])
        tokens = max(1, sum(map(len, said)))
        parameters = list(self.learner.learned.values())

        def teach(share: Share, before: Tensor | None) -> tuple[dict[str, Tensor], Sequence[Tensor | None]]:
            with self.accelerator.autocast():
                answer, logits, replayed = self._answered(share.lesson, self._image(share.lesson))
                anchor = None if before is None else _divergence(before, logits[replayed]) / tokens
                losses = self._total(answer, share.weights, anchor)
            _check(losses["total"])
            return losses, torch.autograd.grad(losses["total"] * scale, parameters, allow_unused=True)

        whole: dict[str, Tensor] = {}
        for losses, gradients in self._pool.map(teach, parted, said or [None] * len(parted)):
            whole = {name: value.detach() + whole.get(name, 0) for name, value in losses.items()}
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    if parameter.grad is None:  # laid out as the parameter is: fused optimizers rely on that
                        parameter.grad = torch.zeros_like(parameter)
                    parameter.grad.add_(gradient)
        return whole

    def _share(self, parameters: Sequence[nn.Parameter]) -> None:
        """The mean of all processes' gradients."""
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(self.accelerator.reduce(parameter.grad, "mean"))

    @torch.no_grad()
    def _follow(self, number: int) -> None:
        """The average follows young weights closely and old ones slowly."""
        weight = 1 - min(self.config.ema, (1 + number) / (10 + number))
        for name, parameter in self.learner.learned.items():
            self.average[name].lerp_(parameter, weight)

    def losses(self, lesson: Lesson, *, anchored: bool = True) -> dict[str, Tensor]:
        """The parts of the loss on one lesson, and their weighted sum as `total`; without `anchored` that of the
        answers alone, which is what is compared between runs."""
        config, device = self.config, self.accelerator.device
        if not len(lesson.owner):  # nothing to be asked about these pictures
            return {"total": torch.zeros((), device=device)}
        anchor = config.anchor if anchored else Anchor.NONE
        before = self._before([lesson])[0] if anchor is Anchor.KL else None
        answer, logits, replayed = self._answered(lesson, self._image(lesson))
        if before is not None:
            return self._total(answer, anchor=_divergence(before, logits[replayed]) / max(1, len(before)))
        return self._total(answer, anchor=self.learner.distance() if anchor is Anchor.L2SP else None)

    def _answered(self, lesson: Lesson, image: Tensor) -> tuple[AnswerLoss, Tensor, Tensor]:
        """The loss of a lesson's answers, the logits [n, vocabulary] of their tokens, and which of these are of what is
        replayed, booleans [n]."""
        device = self.accelerator.device
        owner, prompts, labels = lesson.owner.to(device), lesson.prompts.to(device), lesson.labels.to(device)
        encoded, mask = forward.encode(self.model, image, owner, prompts)
        states, taught, answers = forward.decode(self.model, encoded, mask, labels)
        logits = self._logits(states)
        loss = answer_loss(logits, taught, answers, self.base.first_location, config=self.loss)
        return loss, logits, lesson.replayed.to(device)[answers]

    def _total(
        self, answer: AnswerLoss, weights: AnswerLoss | None = None, anchor: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The parts by name, each weighed, and what they come to, with the anchor's pull."""
        parts = {name: getattr(answer, name) for name in ("text", "location", "kind")}
        if weights:
            parts = {name: value * getattr(weights, name) for name, value in parts.items()}
        total = self.config.text * parts["text"] + self.config.location * parts["location"] + parts["kind"]
        if anchor is not None:
            total, parts["anchor"] = total + self.config.strength * anchor, anchor
        return {"total": total, **parts}

    def _image(self, lesson: Lesson) -> Tensor:
        """The pictures' image tokens [b, tokens, d]."""
        return self._above(self._below(lesson))

    def _below(self, lesson: Lesson) -> Tensor:
        """What the frozen stages say of the pictures, kept [b, channels, height, width]; where none is frozen, the
        normalised pictures."""
        stages = self.config.kept_stages
        if not stages:
            return self._normalised(lesson.pixels)

        def look(place: int) -> Tensor:
            with torch.no_grad():
                return self._through(self._normalised(lesson.pixels[place : place + 1]), slice(stages))[0]

        return torch.stack([self.features.get(view, partial(look, i)) for i, view in enumerate(lesson.views.tolist())])

    def _above(self, seen: Tensor) -> Tensor:
        """The image tokens [b, tokens, d] of what the frozen stages say."""
        return self.model.model.multi_modal_projector(self._through(seen, slice(self.config.kept_stages, None)))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return self.base.files.preprocessing.normalise(list(pixels.numpy()), self.accelerator.device)

    def _through(self, seen: Tensor, stages: slice) -> Tensor:
        """Through some of DaViT's stages, each a convolution and blocks."""
        tower = self.model.model.vision_tower
        for conv, blocks in zip(tower.convs[stages], tower.blocks[stages], strict=True):
            seen = conv(seen)
            for block in blocks:
                seen = block(seen)
        return seen

    @torch.no_grad()
    def _before(self, lessons: Sequence[Lesson]) -> list[Tensor]:
        """What the base says of the tokens of each lesson's replayed answers: log probabilities [n, vocabulary]. It
        answers as it is served, without dropout, and so takes no number of chance."""
        old = [some(lesson, lesson.owner[lesson.replayed].unique().tolist(), self.base.pad) for lesson in lessons]
        with self.learner.off(), self.learner.resting():  # before the graph is built: weights change in place
            said = [self._said(lesson) for lesson in old]
        torch.clear_autocast_cache()  # which keeps the base's weights, and would answer with them
        return said

    def _said(self, lesson: Lesson) -> Tensor:
        """Log probabilities of the tokens of a lesson's answers, [n, vocabulary]."""
        device = self.accelerator.device
        if not len(lesson.owner):
            return torch.zeros(0, self.model.config.text_config.vocab_size, device=device)
        image = self._image(lesson)  # where it is kept, it is the base's too
        encoded, mask = forward.encode(self.model, image, lesson.owner.to(device), lesson.prompts.to(device))
        states, _, _ = forward.decode(self.model, encoded, mask, lesson.labels.to(device))
        return self._logits(states).float().log_softmax(-1)

    def _logits(self, states: Tensor) -> Tensor:
        """The logits [n, vocabulary] of states [n, d], whose number is rounded for the product."""
        filled = nn.functional.pad(states, (0, 0, 0, forward.rounded(len(states)) - len(states)))
        logits: Tensor = self.model.lm_head(filled)[: len(states)]
        return logits

    def state(self) -> dict[str, Any]:
        """Everything that a stopped run needs to go on."""
        learned = {n: p.detach() for n, p in self.learner.learned.items()}
        return {
            "learned": learned, "average": self.average, "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.learner.put(state["learned"])
        self.average = {n: v.to(self.accelerator.device) for n, v in state["average"].items()}
        self.optimizer.load_state_dict(state["optimizer"])


def _divergence(before: Tensor, logits: Tensor) -> Tensor:
    """KL(base ‖ model) in nats, summed over tokens: log probabilities of the base and logits, [n, vocabulary]."""
    return (before.exp() * (before - logits.float().log_softmax(-1))).sum()


def _check(total: Tensor) -> None:
    """Raises FloatingPointError of a loss that is not finite."""
    if not total.isfinite():
        raise FloatingPointError(f"the loss is {total.item()}")
