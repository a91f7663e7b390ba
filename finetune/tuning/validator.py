"""The validation metric of a run: corrections per 100 labels, or the loss, of the averaged parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from finetune.evaluation.corrections import CorrectionCounts
from finetune.tuning.batches import TrainingBatches
from finetune.tuning.class_facts import FoundObjects, add_counts, count_found
from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.frozen_features import FrozenFeatureCache
from finetune.tuning.sample_tokens import LongSample
from finetune.tuning.trainer import Trainer
from finetune.tuning.validation import ValidationSet, ValidationStoppedError, select_main_tasks
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Annotation
from prompts.class_lists import ClassList
from server.engine.config import EngineConfig
from server.engine.engine import Engine

_LOSS_BATCHES = 8  # batches over which the loss is averaged


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """The result of one validation.

    `metric`: lower is better; `errors`: corrections of each image, or losses of each batch; `weights`: true labels of
    each image, or 1 for each batch; `found`: the objects that were found, by class, for corrections.
    """

    metric: float
    errors: list[float]
    weights: list[float]
    found: FoundObjects = field(default_factory=dict)


class Validator:
    """Computes the validation metric of a run. Lower is better."""

    def __init__(
        self,
        config: TuneConfig,
        trainer: Trainer,
        holdout: Sequence[LabeledImage],
        classes: Sequence[str],
        class_list: ClassList | None = None,
    ) -> None:
        """`class_list`: what answers are held to. Raises ValueError if the holdout cannot be used."""
        self._config, self._trainer = config, trainer
        self._validation_set: ValidationSet | None = None
        self._batches: TrainingBatches | None = None
        if holdout and config.metric == "corrections":
            tasks = select_main_tasks(holdout, config.tasks)
            self._validation_set = ValidationSet(holdout, classes, tasks, class_list)
            if not self._validation_set.label_count:
                raise ValueError("the holdout has no labels for the validation: use another holdout, or none")
        elif holdout:
            unchanged = config.model_copy(update={"augmentation": 0.0, "replay_share": 0.0, "seed": 0})
            self._batches = TrainingBatches(trainer.pretrained.files, holdout, classes, unchanged)

    @property
    def left_out(self) -> Sequence[LongSample]:
        """The samples of the holdout that are too long for the loss. Corrections are counted on all samples."""
        return self._batches.left_out if self._batches else ()

    def validate(
        self, candidate: Path, should_stop: Callable[[], bool], on_progress: Callable[[float], None]
    ) -> ValidationResult | None:
        """Validates the averaged parameters, which are saved in `candidate`; returns None without a holdout.

        `on_progress` receives the share that is done. Raises ValidationStoppedError.
        """
        if self._validation_set is not None:
            return self._count_corrections(self._validation_set, candidate, should_stop, on_progress)
        if self._batches is not None:
            return self._compute_loss(self._batches, should_stop, on_progress)
        return None

    def _count_corrections(
        self,
        validation_set: ValidationSet,
        candidate: Path,
        should_stop: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> ValidationResult:
        is_adapter = self._config.method is Method.LORA
        model, device = self._config.base if is_adapter else str(candidate), str(self._trainer.accelerator.device)
        found: dict[str, tuple[int, int]] = {}
        answers, total = 0, sum(map(len, validation_set.samples))

        def on_answer(sample: Sample, predicted: Sequence[Annotation]) -> None:
            nonlocal answers
            answers += 1
            add_counts(found, count_found(predicted, sample))
            on_progress(answers / total)

        with Engine.load(EngineConfig(model, device=device)) as engine:
            name = engine.load_adapter("candidate", candidate).name if is_adapter else None
            counts = validation_set.count_corrections(engine, name, should_stop=should_stop, on_answer=on_answer)
        metric = sum(counts, CorrectionCounts()).per_hundred
        return ValidationResult(metric, [float(c.total) for c in counts], [float(c.labels) for c in counts], found)

    def _compute_loss(
        self, batches: TrainingBatches, should_stop: Callable[[], bool], on_progress: Callable[[float], None]
    ) -> ValidationResult:
        trainer, losses = self._trainer, list[float]()
        training_cache = trainer.feature_cache
        trainer.feature_cache = FrozenFeatureCache()  # the numbers of views have another meaning here
        try:
            with torch.no_grad(), trainer.trainable.eval_mode(), trainer.trainable.use_values(trainer.average):
                for number in range(_LOSS_BATCHES):
                    if should_stop():
                        raise ValidationStoppedError
                    losses.append(trainer.compute_losses(batches[number], anchored=False)["loss"].item())
                    on_progress((number + 1) / _LOSS_BATCHES)
        finally:
            trainer.feature_cache = training_cache
        return ValidationResult(sum(losses) / len(losses), losses, [1.0] * len(losses))
