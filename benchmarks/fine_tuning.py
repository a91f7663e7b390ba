"""Fine-tuning against a plain loop: `python -m benchmarks.fine_tuning`.

The plain side is what the notebooks do: `transformers.Trainer` and PEFT, a row for each prompt with its own pixels, all
padded to the longest, and the model's own cross entropy. Ours: a picture's prompts share its features, which are kept
where the tower is frozen, short and long answers are padded apart, and words and places are weighed apart. Same base,
pictures, questions step by step, adapter, first values, optimizer, rate and number of steps; both make their batches
within the time; each side alone in its process, the memory its peak above what the imports take.
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

from benchmarks.results import Row, show
from finetune import memory
from finetune.evaluation.corrections import Tally
from finetune.tuning.batches import Lesson, Lessons
from finetune.tuning.config import TuneConfig
from finetune.tuning.trainer import Trainer
from finetune.tuning.validation import Judge
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.model.preprocessing import count_image_tokens

FIRST, HELD = 230_000, 240_000  # seeds of the pictures taught, and of those held out


def example(seed: int) -> LabeledImage:
    """A drawn scene of the set that the seedling never saw, boxed."""
    scene = draw_scene(seed, sets=(HOLDOUT_SET,), objects=(1, 4), words=(0, 2))
    boxes = tuple(Box(label=thing.category, box=thing.box) for thing in scene.objects)
    whole = frozenset({LabelKind.OBJECTS})
    return LabeledImage(f"{seed}.png", "drawn", *scene.image.size, boxes, lambda: scene.image, whole)


def settings(steps: int, frozen: bool) -> TuneConfig:
    """Of both sides; a location is one bin, as the plain loop has it."""
    return TuneConfig(
        steps=steps, augment=0.0, replay=0.0, frozen_stages=4 if frozen else 0, views=1, sigma=0.0, ema=0.0, text=1.0,
        location=1.0, rate=1e-3,
    )  # fmt: skip


def plain(config: TuneConfig, lessons: Lessons, trainer: Trainer) -> None:
    """transformers.Trainer over PEFT's model."""
    preprocessor, pad = trainer.base.files.preprocessor, trainer.base.pad
    image = trainer.model.config.image_token_id
    tokens = count_image_tokens(trainer.base.files.config, preprocessor)

    def collate(lesson: Lesson) -> dict[str, Tensor]:
        """A row for each prompt, with its picture's pixels."""
        places = torch.full((len(lesson.prompts), tokens), image)
        ids = torch.cat([places, lesson.prompts], 1)
        return {
            "pixel_values": preprocessor.normalize(list(lesson.pixels[lesson.owner].numpy())),
            "input_ids": ids,
            "attention_mask": (ids != pad).long(),
            "labels": lesson.labels,
        }

    optimizer = torch.optim.AdamW(trainer.learner.groups(), lr=config.rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: config.rate_at(step) / config.rate)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=config.pictures * config.prompts, max_steps=config.steps,
            save_strategy="no", report_to=[], remove_unused_columns=False, use_cpu=True, max_grad_norm=config.clip,
            logging_strategy="no", disable_tqdm=True, label_names=["labels"],
        )  # fmt: skip

        class InOrder(HuggingFaceTrainer):
            def get_train_dataloader(self) -> DataLoader[Any]:
                return DataLoader(lessons, batch_size=None, sampler=range(config.steps), collate_fn=collate)

        InOrder(
            model=trainer.learner.peft, args=arguments, train_dataset=[{}] * config.steps,
            data_collator=collate, optimizers=(optimizer, schedule),
        ).train()  # fmt: skip
    trainer.average = {name: value.detach() for name, value in trainer.learner.learned.items()}


def ours(config: TuneConfig, lessons: Lessons, trainer: Trainer) -> None:
    """Our loop, as `florist tune` runs it."""
    memory.keep()
    for step, lesson in enumerate(DataLoader(lessons, batch_size=None, sampler=range(config.steps))):
        trainer.step([lesson], step)


SIDES = {"Trainer + PEFT": plain, "florist tune": ours}


def side(name: str, steps: int, frozen: bool, pictures: int, held: int) -> tuple[float, float, float]:
    """One side alone: seconds, peak megabytes above the start's, corrections per 100 held-out labels."""
    config = settings(steps, frozen)
    trainer = Trainer(config, Accelerator(cpu=True))
    examples = [example(FIRST + i) for i in range(pictures)]
    for one in examples:
        one.open()
    lessons = Lessons(trainer.base.files, examples, CATEGORIES, config)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    SIDES[name](config, lessons, trainer)
    seconds = time.perf_counter() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
    judge = Judge([example(HELD + i) for i in range(held)], CATEGORIES, ("<OD>",))
    with tempfile.TemporaryDirectory() as folder, Engine.load(EngineConfig(config.base)) as engine:
        trainer.learner.save(Path(folder), trainer.average)
        engine.load_adapter("tuned", Path(folder))
        return seconds, peak, sum(judge.tallies(engine, "tuned"), Tally()).per_hundred


def main(
    steps: Annotated[int, typer.Option(help="Of each side.")] = 24,
    pictures: Annotated[int, typer.Option(help="That are taught.")] = 32,
    held: Annotated[int, typer.Option(help="Held-out pictures that the metric is of.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
) -> None:
    """Times both sides, with the tower frozen and learning."""
    rows: list[Row] = []
    for frozen in (True, False):
        workload = f"{steps} steps of 8 pictures × 4 prompts, tower {'frozen' if frozen else 'learning'}"
        baseline = 0.0
        for name in SIDES:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
                seconds, peak, metric = alone.submit(side, name, steps, frozen, pictures, held).result()
            baseline = baseline or seconds
            note = f"{peak:.0f} MB above the start; {metric:.1f} corrections per 100 held-out labels"
            rows.append(Row(workload, name, seconds / steps, "s a step", ratio=baseline / seconds, note=note))
    show("fine-tuning the seedling by LoRA", rows, out)


if __name__ == "__main__":
    typer.run(main)
