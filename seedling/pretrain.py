"""Trains the seedling: `python -m seedling.pretrain --out runs/seedling` (`make seedling`).

Training runs in stages (`stages.py`):

1. `dense`: the dense heads only, until a cell knows what it shows.
2. `answers`: the answers of all 15 tasks together with the dense heads.
3. `names`: the same, with object names before letters.
4. `classes`, `classes-cooldown`: the cells' classes again.
5. `letters`: pages of words.
6. `all-tasks`, `six-objects`, `relevance`, `attention`, `size-256`, `reweighted`, `early-colors`, `size-320` and
   `caption-order`: all tasks, each with one addition.

The width of location targets shrinks from σ = 10 to 2 bins. The learning rate warms up, stays constant and falls
linearly to 0 at the end of a stage (WSD, Hu et al. 2024, arXiv:2404.06395), so a run can be shortened or extended
cheaply. A run that was stopped continues when the command is called again. `--init FOLDER --stage caption-order`
continues from committed weights; `--init he` and `--no-ordered` use other initial weights than the committed seedling.

The committed weights were trained in these stages, over several sessions on shared cores, while the method grew. Muon
was added with `six-objects`; colors, letter indices, relevance, unrelated and wide images with `relevance`; attention
targets, pages of words and exact letter widths with `attention`; background colors and bfloat16 products with
`size-256`, which uses larger images; color shares with `reweighted`, those halfway through the vision encoder with
`early-colors`; two more blocks of the vision encoder with `size-320`, which uses larger images again; scenes side by
side and captions in a jittered order with `caption-order`. The complete sequence was never run from scratch, where
everything is present from the first step.

Several processes share the images of each batch (`ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 -m
seedling.pretrain …`). The number of images should be a multiple of the number of processes; otherwise some images weigh
more. On two cores, two processes with one thread each are faster than one with two. docs/measurements/seedling.md
describes what made a difference, with the metrics of each trial.
"""

import json
import shutil
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerBase

from finetune import attention, memory
from finetune.precision import select_precision
from seedling import architecture, progress, resizing
from seedling.initialization import InitScheme
from seedling.pretrainer import Pretrainer
from seedling.scenes.batches import SceneBatch, SceneBatchDataset
from seedling.stages import STAGES, Stage

LOG_INTERVAL = 50  # steps


class StageDataset(Dataset[SceneBatch]):
    """The batches of all stages, one after the other, by global step."""

    def __init__(
        self, stages: list[Stage], tokenizer: PreTrainedTokenizerBase, seed: int, shard: tuple[int, int] = (0, 1)
    ) -> None:
        """See `SceneBatchDataset` for `shard`."""
        self.stages = stages
        self.batches = [
            SceneBatchDataset(
                tokenizer, side=stage.side, grid=stage.side // architecture.CELL_SIDE, images=stage.images,
                prompts=stage.prompts, seed=seed * 100 + number, objects=stage.objects, words=stage.words,
                ocr_weight=stage.ocr_weight, shard=shard, task_weights=stage.task_weights,
                wide_share=stage.wide_share,
            )
            for number, stage in enumerate(stages)
        ]  # fmt: skip

    def locate(self, step: int) -> tuple[int, int]:
        """Returns (stage number, step within the stage) of a global step."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        raise IndexError(step)

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> SceneBatch:
        number, stage_step = self.locate(step)
        return self.batches[number][stage_step]


class RunLog:
    """Averages losses and writes a line of `log.jsonl` every LOG_INTERVAL steps."""

    def __init__(self, path: Path, total_steps: int) -> None:
        self.path, self.total_steps = path, total_steps
        self.values = defaultdict[str, list[float]](list)  # since the last line
        self.started = time.monotonic()

    def add(self, parts: dict[str, float]) -> None:
        """Adds the losses of one step."""
        for part, value in parts.items():
            self.values[part].append(value)

    def write(self, step: int, stage: Stage) -> None:
        """Writes the means since the last line, after `step` steps."""
        means = {part: round(sum(values) / len(values), 4) for part, values in self.values.items()}
        seconds = (time.monotonic() - self.started) / len(self.values["total"])
        with self.path.open("a") as log:
            log.write(json.dumps({"step": step, "stage": stage.name, **means, "seconds": round(seconds, 3)}) + "\n")
        shown = " ".join(f"{name} {value:.3g}" for name, value in means.items())
        remaining = (self.total_steps - step) * seconds / 60
        print(
            f"{stage.name} {step}/{self.total_steps}  {shown}  {seconds:.2f} s/step, {remaining:.0f} min left",
            flush=True,
        )
        self.values.clear()
        self.started = time.monotonic()


def train(
    out: Path, stages: list[Stage], *, first: int = 0, init: InitScheme | Path = InitScheme.XAVIER,
    ordered: bool = True, seed: int = 0, save_every: int = 200, workers: int = 1, snapshot_every: int = 0,
) -> None:  # fmt: skip
    """Runs the stages from number `first` on.

    Writes `log.jsonl`, `state.pt` (to resume from) and `checkpoint/` (to serve) into `out`. Every `snapshot_every`
    steps it also writes `sheet-STEP.png`, a dozen unseen scenes with the current predictions, and a snapshot that
    `seedling.progress` can measure. `init` is a scheme for initial weights (see `architecture.initialize_weights`, also
    for `ordered`), or a seedling checkpoint to start from. No checkpoint holds the dense heads, which start untrained.
    """
    memory.retain_freed_memory()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    accelerator = Accelerator(mixed_precision=select_precision())
    start_step = sum(stage.steps for stage in stages[:first])
    saved = None
    if (out / "state.pt").exists():
        saved = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
    side = stages[first].side
    model, tokenizer = _build_model(init, seed, side, ordered=ordered)
    dataset = StageDataset(stages, tokenizer, seed, (accelerator.process_index, accelerator.num_processes))
    run = {"seed": seed, "init": str(init), "ordered": ordered, "stages": [asdict(s) for s in stages]}
    if saved:
        _check_same_run(out / "run.json", run)
        start_step = saved["step"]
        side = stages[dataset.locate(start_step - 1)[0]].side
        resizing.resize_input(model, side, ordered=ordered)
    trainer = Pretrainer(model, tokenizer, accelerator)
    if saved:
        trainer.load_state(saved["trainer"])
        accelerator.print(f"resuming at step {start_step} of {len(dataset)}", flush=True)
    is_main = accelerator.is_main_process
    accelerator.wait_for_everyone()  # until all processes have read what is overwritten here
    if is_main:
        (out / "run.json").write_text(json.dumps(run, indent=2))
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(start_step, len(dataset)),
        num_workers=workers,
        prefetch_factor=8 if workers else None,
    )
    model.train()
    log = RunLog(out / "log.jsonl", len(dataset))
    for step, batch in enumerate(loader, start_step + 1):
        number, stage_step = dataset.locate(step - 1)
        stage = stages[number]
        if stage.side != side:
            side = stage.side
            trainer.resize_input(side, ordered=ordered)
        log.add(trainer.train_step(batch, stage, stage_step))
        if step % memory.RELEASE_EVERY == 0:
            memory.release_freed_memory()
        if not is_main:
            continue
        if step % LOG_INTERVAL == 0:
            log.write(step, stage)
        takes_snapshot = bool(snapshot_every) and step % snapshot_every == 0
        if step % save_every == 0 or step == len(dataset) or takes_snapshot:
            _save(out, trainer, step, snapshot=takes_snapshot)
        if takes_snapshot:
            f1 = progress.draw_sheet(out / "checkpoint", out / f"sheet-{step:05}.png")
            print(f"detection F1@0.5 on a dozen unseen scenes: {f1:.2f}", flush=True)


def _build_model(
    init: InitScheme | Path, seed: int, side: int, *, ordered: bool
) -> tuple[Florence2ForConditionalGeneration, PreTrainedTokenizerBase]:
    """Builds a new model, or loads the checkpoint `init`. Raises SystemExit if that is not a seedling."""
    scheme = init if isinstance(init, InitScheme) else InitScheme.XAVIER
    model, tokenizer = architecture.build_model(seed, scheme, ordered=ordered, image_side=side)
    if isinstance(init, Path):
        model = Florence2ForConditionalGeneration.from_pretrained(
            init, dtype=torch.float32, attn_implementation=attention.select_cpu_attention()
        )
        if model.config.text_config.vocab_size != len(tokenizer):
            raise SystemExit(f"{init} has another vocabulary; start from a checkpoint of the seedling")
        resizing.extend_architecture(model)
        resizing.resize_input(model, side, ordered=ordered)
    return model, tokenizer


def _check_same_run(path: Path, run: dict[str, Any]) -> None:
    """Raises SystemExit when the folder holds a run with another seed or other stages: its steps differ."""
    now = json.loads(json.dumps(run))
    before = json.loads(path.read_text()) if path.exists() else now
    # Earlier versions had one way to initialize and did not record it.
    before = {"ordered": True, **before, "init": before["init"] or InitScheme.XAVIER.value}
    if before != now:
        raise SystemExit(
            f"{path.parent} holds another run. Use a new --out, or delete {path} to continue anyway.\n"
            f"there: {json.dumps(before)}\nnow:   {json.dumps(now)}"
        )


def _save(out: Path, trainer: Pretrainer, step: int, *, snapshot: bool) -> None:
    """Writes the checkpoint, the snapshot and the state.

    The state comes last. If the process is killed before that, the run resumes from the old state and writes all again.
    """
    trainer.save_average(out / "checkpoint")
    if snapshot:
        folder = out / progress.SNAPSHOTS / f"{step}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(out / "checkpoint", out / "snapshot.partial", dirs_exist_ok=True)
        folder.parent.mkdir(exist_ok=True)
        (out / "snapshot.partial").rename(folder)
    partial = out / "state.partial"
    torch.save({"step": step, "trainer": trainer.get_state()}, partial)
    partial.replace(out / "state.pt")


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run. Called again, it continues where it stopped.")],
    init: Annotated[
        str, typer.Option(help="Initial weights: xavier, he, or a checkpoint folder to start from.")
    ] = InitScheme.XAVIER.value,
    ordered: Annotated[bool, typer.Option(help="Whether neighboring locations start with similar embeddings.")] = True,
    stage: Annotated[str, typer.Option(help=f"First stage: {', '.join(s.name for s in STAGES)}.")] = STAGES[0].name,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of the scenes.")] = 0,
) -> None:
    """Trains the seedling from scratch, or continues from one of its checkpoints."""
    names = [stage.name for stage in STAGES]
    if stage not in names:
        raise typer.BadParameter(f"unknown stage {stage}; use one of {', '.join(names)}", param_hint="--stage")
    start = InitScheme(init) if init in list(InitScheme) else Path(init)
    if isinstance(start, Path) and not start.is_dir():
        raise typer.BadParameter(f"{init} is neither {' nor '.join(InitScheme)} nor a folder", param_hint="--init")
    if isinstance(start, Path) and not ordered:
        raise typer.BadParameter("it applies to new weights, and a folder has its own", param_hint="--no-ordered")
    train(out, list(STAGES), first=names.index(stage), init=start, ordered=ordered, seed=seed, snapshot_every=500)


if __name__ == "__main__":
    typer.run(main)
