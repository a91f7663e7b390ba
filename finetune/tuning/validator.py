"""The validation metric of a run: corrections per 100 labels, or the loss, of the averaged parameters."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from finetune.evaluation.corrections import CorrectionCounts
from finetune.tuning.batches import TrainingBatches
from finetune.tuning.config import Method, TuneConfig
from finetune.tuning.frozen_features import FrozenFeatureCache
from finetune.tuning.sample_tokens import LongSample
from finetune.tuning.trainer import Trainer
from finetune.tuning.validation import ValidationSet, ValidationStoppedError, select_main_tasks
from labels.labeled_image import LabeledImage
from server.engine.config import EngineConfig
from server.engine.engine import Engine

_LOSS_BATCHES = 8  # batches over which the loss is averaged


class Validator:
    """Computes the validation metric of a run. Lower is better."""

    def __init__(
        self, config: TuneConfig, trainer: Trainer, holdout: Sequence[LabeledImage], classes: Sequence[str]
    ) -> None:
        """Raises ValueError if the holdout cannot be used."""
        self._config, self._trainer = config, trainer
        self._validation_set: ValidationSet | None = None
        self._batches: TrainingBatches | None = None
        if holdout and config.metric == "corrections":
            self._validation_set = ValidationSet(holdout, classes, select_main_tasks(holdout, config.tasks))
            if not self._validation_set.label_count:
                raise ValueError("the holdout has no labels for the validation: use another holdout, or none")
        elif holdout:
            unchanged = config.model_copy(update={"augmentation": 0.0, "replay_share": 0.0, "seed": 0})
            self._batches = TrainingBatches(trainer.pretrained.files, holdout, classes, unchanged)

    @property
    def left_out(self) -> Sequence[LongSample]:
        """The samples of the holdout that are too long for the loss. Corrections are counted on all samples."""
        return self._batches.left_out if self._batches else ()

    def compute_metric(self, candidate: Path, should_stop: Callable[[], bool]) -> float | None:
        """Returns the metric of the averaged parameters, which are saved in `candidate`; None without a holdout.

        Raises ValidationStoppedError.
        """
        if self._validation_set is not None:
            return self._count_corrections(self._validation_set, candidate, should_stop)
        if self._batches is not None:
            return self._compute_loss(self._batches, should_stop)
        return None

    def _count_corrections(
        self, validation_set: ValidationSet, candidate: Path, should_stop: Callable[[], bool]
    ) -> float:
        is_adapter = self._config.method is Method.LORA
        model, device = self._config.base if is_adapter else str(candidate), str(self._trainer.accelerator.device)
        with Engine.load(EngineConfig(model, device=device)) as engine:
            name = engine.load_adapter("candidate", candidate).name if is_adapter else None
            counts = validation_set.count_corrections(engine, name, should_stop=should_stop)
        return sum(counts, CorrectionCounts()).per_hundred

    def _compute_loss(self, batches: TrainingBatches, should_stop: Callable[[], bool]) -> float:
        trainer, losses = self._trainer, []
        training_cache = trainer.feature_cache
        trainer.feature_cache = FrozenFeatureCache()  # the numbers of views have another meaning here
        try:
            with torch.no_grad(), trainer.trainable.eval_mode(), trainer.trainable.use_values(trainer.average):
                for number in range(_LOSS_BATCHES):
                    if should_stop():
                        raise ValidationStoppedError
                    losses.append(trainer.compute_losses(batches[number], anchored=False)["loss"].item())
        finally:
            trainer.feature_cache = training_cache
        return sum(losses) / len(losses)
