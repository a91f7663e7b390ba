"""Fine-tuning with florist against transformers.Trainer and PEFT: `python -m benchmarks.fine_tuning`.

The baseline is what notebooks do: `transformers.Trainer` and PEFT, one row per prompt with its own pixels, all padded
to the longest, and the model's own cross-entropy. In florist, the prompts of an image share its features, which are
cached where the vision encoder is frozen; short and long answers are padded separately; and words and locations are
weighted separately. Both use the same base, images, samples in each step, adapter, initial weights, optimizer, learning
rate and number of steps. Both create their batches within the measured time. Each runs in its own process, and the
memory is the peak above what the imports take.
"""

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer as HuggingFaceTrainer
from transformers import TrainingArguments

from benchmarks.results import Measurement, report_measurements
from benchmarks.workloads import draw_boxed_image
from finetune import memory
from finetune.evaluation.corrections import CorrectionCounts
from finetune.tuning.batches import TrainingBatches
from finetune.tuning.config import TuneConfig
from finetune.tuning.trainer import Trainer
from finetune.tuning.validation import ValidationSet
from seedling.scenes.glyphs import CATEGORIES
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.model.preprocessing import count_image_tokens

TRAIN_SEED, HOLDOUT_SEED = 230_000, 240_000  # first seeds of training and of holdout images


def make_config(steps: int, frozen: bool) -> TuneConfig:
    """Returns the settings of both systems. A location target is one bin, as in the baseline."""
    return TuneConfig(
        steps=steps, augmentation=0.0, replay_share=0.0, frozen_stages=4 if frozen else 0, views_per_image=1,
        location_sigma=0.0, ema_decay=0.0, text_weight=1.0, location_weight=1.0, learning_rate=1e-3,
    )  # fmt: skip


def train_with_huggingface(config: TuneConfig, batches: TrainingBatches, trainer: Trainer) -> None:
    """Trains with transformers.Trainer on PEFT's model."""
    preprocessor, pad = trainer.pretrained.files.preprocessor, trainer.pretrained.pad
    image_token = trainer.model.config.image_token_id
    tokens = count_image_tokens(trainer.pretrained.files.config, preprocessor)

    def collate(batch: Any) -> dict[str, Tensor]:  # a TrainingBatch; DataLoader declares a list
        """Returns one row per prompt, with the pixels of its image."""
        image = torch.full((len(batch.prompts), tokens), image_token)
        ids = torch.cat([image, batch.prompts], 1)
        return {
            "pixel_values": preprocessor.normalize(list(batch.pixels[batch.owner].numpy())),
            "input_ids": ids,
            "attention_mask": (ids != pad).long(),
            "labels": batch.labels,
        }

    rate = config.learning_rate
    groups = trainer.trainable.build_parameter_groups()
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: config.compute_learning_rate(step) / rate)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=config.batch_size * config.prompts_per_image, max_steps=config.steps,
            save_strategy="no", report_to=[], remove_unused_columns=False, use_cpu=True,
            max_grad_norm=config.max_grad_norm, logging_strategy="no", disable_tqdm=True, label_names=["labels"],
        )  # fmt: skip

        class OrderedTrainer(HuggingFaceTrainer):
            """Takes the batches in their order."""

            def get_train_dataloader(self) -> DataLoader[Any]:
                return DataLoader(batches, batch_size=None, sampler=range(config.steps), collate_fn=collate)

        OrderedTrainer(
            model=trainer.trainable.peft, args=arguments, train_dataset=[{}] * config.steps,
            data_collator=collate, optimizers=(optimizer, schedule),
        ).train()  # fmt: skip
    trainer.average = {name: value.detach() for name, value in trainer.trainable.parameters.items()}


def train_with_florist(config: TuneConfig, batches: TrainingBatches, trainer: Trainer) -> None:
    """Trains as `florist tune` does."""
    memory.retain_freed_memory()
    for step, batch in enumerate(DataLoader(batches, batch_size=None, sampler=range(config.steps))):
        trainer.step([batch], step)


SYSTEMS = {"Trainer + PEFT": train_with_huggingface, "florist tune": train_with_florist}


def run_system(name: str, steps: int, frozen: bool, images: int, holdout: int) -> tuple[float, float, float]:
    """Returns seconds, peak megabytes above the start, and corrections per 100 labels on the holdout images."""
    config = make_config(steps, frozen)
    trainer = Trainer(config, Accelerator(cpu=True))
    train_images = [draw_boxed_image(TRAIN_SEED + i) for i in range(images)]
    for image in train_images:
        image.open()
    batches = TrainingBatches(trainer.pretrained.files, train_images, CATEGORIES, config)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    SYSTEMS[name](config, batches, trainer)
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    holdout_images = [draw_boxed_image(HOLDOUT_SEED + i) for i in range(holdout)]
    validation = ValidationSet(holdout_images, CATEGORIES, ("<OD>",))
    with tempfile.TemporaryDirectory() as folder, Engine.load(EngineConfig(config.base)) as engine:
        trainer.trainable.save(Path(folder), trainer.average)
        engine.load_adapter("tuned", Path(folder))
        corrections = sum(validation.count_corrections(engine, "tuned"), CorrectionCounts())
        return seconds, peak, corrections.per_hundred


def main(
    steps: Annotated[int, typer.Option(help="Steps of each system.")] = 24,
    images: Annotated[int, typer.Option(help="Images for training.")] = 32,
    holdout: Annotated[int, typer.Option(help="Images for the metric.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints seconds per step of both systems, with the vision encoder frozen and trained."""
    measurements: list[Measurement] = []
    for frozen in (True, False):
        state = "frozen" if frozen else "trained"
        workload = f"{steps} steps of 8 images × 4 prompts, vision encoder {state}"
        baseline = 0.0
        for name in SYSTEMS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                seconds, peak, metric = process.submit(run_system, name, steps, frozen, images, holdout).result()
            baseline = baseline or seconds
            note = f"{peak:.0f} MB above the start; {metric:.1f} corrections per 100 holdout labels"
            speedup = baseline / seconds
            measurements.append(Measurement(workload, name, seconds / steps, "s/step", speedup, note=note))
    report_measurements("Fine-tuning the seedling with LoRA", measurements, out)


if __name__ == "__main__":
    typer.run(main)
