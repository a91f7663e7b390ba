"""Teaches the seedling from scratch: `python -m seedling.pretrain --out runs/seedling` (`make seedling`).

By stages (`stages.py`). `look`: the dense heads alone, until a cell knows what lies on it. `speak`: the answers of all
15 tasks together with the dense heads. `name`: the same with names before letters. `see`: the cells' classes first
again, with a cool-down; `polish`: one more, shorter. `spell`: letters, by pages of words; `settle`: all of it at once,
with a cool-down; `crowd`, `point`, `align`, `enlarge`, `refine`, `tint`, `sharpen` and `finish`: up to six objects,
each with its own. Locations' targets narrow from σ 10 to 2 bins. Warm-up, a constant rate, and a linear cool-down (WSD,
Hu et al. 2024, arXiv:2404.06395), so that a run may be ended early or lengthened without waste. A stopped run goes on
at its step when called again; `--init server/engine/checkpoints/seedling --stage finish` takes up committed weights, `--init he`
and `--no-ordered` draw the first values in other ways than the committed seedling's were.

The committed weights came by these stages, in several sittings on shared cores, while the recipe grew: Muon came with
`crowd`; colours, letters' order, pointing (`ASKED`), foreign and wide pictures with `point`; guided attention
(`ALIGNED`), pages of words and letters' true widths with `align`; colours of backgrounds and products in bfloat16 with
`enlarge`, whose pictures are larger; colours as shares with `refine`, those of places halfway up the tower with `tint`;
two more blocks of the tower with `sharpen`, whose pictures are larger again; scenes side by side and captions in an
order that wavers with `finish`.
From scratch, where all of it is there from the first step, the recipe was never run to its end. Of several processes
each takes its share of every batch's pictures (`ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 -m seedling.pretrain
…`; as many for each, else some weigh more): on two cores two of one thread are faster than one of two. What mattered,
with the figures of each trial, stands in `seedling.md` beside this.
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
from finetune.precision import precision
from seedling import architecture, progress
from seedling.initialization import Initial
from seedling.pretrainer import Teacher, snapshot
from seedling.scenes.batches import Batch, SceneBatchDataset
from seedling.stages import STAGES, Stage


class Steps(Dataset[Batch]):
    """All stages' batches, one after the other, by global step; `share`: see `SceneBatches`."""

    def __init__(
        self, stages: list[Stage], tokenizer: PreTrainedTokenizerBase, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.stages = stages
        self.batches = [
            SceneBatchDataset(
                tokenizer, side=stage.side, grid=stage.side // architecture.CELL, pictures=stage.pictures,
                prompts=stage.prompts, seed=seed * 100 + number, objects=stage.objects, words=stage.words,
                reading=stage.reading, share=share, task_weights=stage.task_weights, wide=stage.wide,
            )
            for number, stage in enumerate(stages)
        ]  # fmt: skip

    def locate(self, step: int) -> tuple[int, int]:
        """Global step → (stage number, step within it)."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        raise IndexError(step)

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> Batch:
        number, within = self.locate(step)
        return self.batches[number][within]


def _same_run(path: Path, run: dict[str, Any]) -> None:
    """Raises SystemExit when the folder holds a run of another seed or other stages: its steps mean something else."""
    now = json.loads(json.dumps(run))
    before = json.loads(path.read_text()) if path.exists() else now
    # A version that knew one way to begin said less.
    before = {"ordered": True, **before, "init": before["init"] or Initial.XAVIER.value}
    if before != now:
        raise SystemExit(
            f"{path.parent} holds another run; give a new --out, or delete {path} to go on in spite of it.\n"
            f"then: {json.dumps(before)}\nnow:  {json.dumps(now)}"
        )


def train(
    out: Path, stages: list[Stage], *, first: int = 0, init: Initial | Path = Initial.XAVIER, ordered: bool = True,
    seed: int = 0, every: int = 200, workers: int = 1, sheets: int = 0,
) -> None:  # fmt: skip
    """Runs the stages from number `first` on, writing `log.jsonl`, `state.pt` (to go on from) and `checkpoint/` (to
    serve) into `out`; every `sheets` steps also `sheet-STEP.png`, a dozen unseen scenes as the model of the moment
    labels them, and a snapshot, which `seedling.progress` measures. `init`: how first values are drawn (see
    `architecture.initialise`, also for `ordered`), or a checkpoint folder of this shape to start from; the dense heads,
    which no checkpoint holds, start anew."""
    memory.keep()
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    accelerator = Accelerator(mixed_precision=precision())
    how = init if isinstance(init, Initial) else Initial.XAVIER
    begin = sum(stage.steps for stage in stages[:first])
    saved = None
    if (out / "state.pt").exists():
        saved = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
    side = stages[first].side
    model, words = architecture.build(seed, how, ordered=ordered, picture=side)
    if isinstance(init, Path):
        model = Florence2ForConditionalGeneration.from_pretrained(
            init, dtype=torch.float32, attn_implementation=attention.best()
        )
        if model.config.text_config.vocab_size != len(words):
            raise SystemExit(
                f"{init} has another vocabulary than the seedling; start from a checkpoint of the seedling"
            )
        architecture.grow(model)
        architecture.resize(model, side, ordered=ordered)
    steps = Steps(stages, words, seed, (accelerator.process_index, accelerator.num_processes))
    run = {"seed": seed, "init": str(init), "ordered": ordered, "stages": [asdict(s) for s in stages]}
    if saved:
        _same_run(out / "run.json", run)
        begin = saved["step"]
        side = stages[steps.locate(begin - 1)[0]].side
        architecture.resize(model, side, ordered=ordered)
    teacher = Teacher(model, words, accelerator)
    if saved:
        teacher.restore(saved["teacher"])
        accelerator.print(f"going on at step {begin} of {len(steps)}", flush=True)
    writes = accelerator.is_main_process
    accelerator.wait_for_everyone()  # until all have read what is written anew here
    if writes:
        (out / "run.json").write_text(json.dumps(run, indent=2))
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(begin, len(steps)),
        num_workers=workers,
        prefetch_factor=8 if workers else None,
    )
    model.train()
    clock, seen = time.monotonic(), defaultdict[str, list[float]](list)  # since the last line of the log
    for step, batch in enumerate(loader, begin):
        number, within = steps.locate(step)
        stage = stages[number]
        if stage.side != side:
            side = stage.side
            teacher.resize(side, ordered=ordered)
        parts = teacher.step(batch, stage, within)
        for part, value in parts.items():
            seen[part].append(value)
        if (step + 1) % memory.EVERY == 0:
            memory.give_back()
        if writes and (step + 1) % 50 == 0:
            mean = {part: round(sum(values) / len(values), 4) for part, values in seen.items()}
            pace = (time.monotonic() - clock) / len(seen["total"])
            left = (len(steps) - step - 1) * pace / 60
            line = {"step": step + 1, "stage": stage.name, **mean, "seconds": round(pace, 3)}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            shown = " ".join(f"{k} {v:.3g}" for k, v in mean.items())
            print(
                f"{stage.name} {step + 1}/{len(steps)}  {shown}  {pace:.2f} s a step, {left:.0f} min left", flush=True
            )
            clock = time.monotonic()
            seen.clear()
        looking = sheets and (step + 1) % sheets == 0
        if writes and ((step + 1) % every == 0 or step + 1 == len(steps) or looking):
            # The state last: a kill before it is whole leaves the old one, and going on from that writes both anew.
            snapshot(teacher, out / "checkpoint")
            if looking:
                kept = out / progress.SNAPSHOTS / f"{step + 1}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(out / "checkpoint", out / "snapshot.partial", dirs_exist_ok=True)
                kept.parent.mkdir(exist_ok=True)
                (out / "snapshot.partial").rename(kept)
            partial = out / "state.partial"
            torch.save({"step": step + 1, "teacher": teacher.state()}, partial)
            partial.replace(out / "state.pt")
        if writes and looking:
            f1 = progress.look(out / "checkpoint", out / f"sheet-{step + 1:05}.png")
            print(f"detection F1@0.5 on a dozen unseen scenes: {f1:.2f}", flush=True)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run; called again, it goes on where it stopped.")],
    init: Annotated[
        str, typer.Option(help="How first values are drawn, xavier or he; or a checkpoint folder to start from.")
    ] = Initial.XAVIER.value,
    ordered: Annotated[bool, typer.Option(help="Whether neighbouring locations begin alike.")] = True,
    stage: Annotated[str, typer.Option(help=f"First stage: {', '.join(s.name for s in STAGES)}.")] = STAGES[0].name,
    seed: Annotated[int, typer.Option(help="Seed of the first values and of the scenes.")] = 0,
) -> None:
    """Teaches the seedling, from scratch or on from a checkpoint of it."""
    names = [stage.name for stage in STAGES]
    if stage not in names:
        raise typer.BadParameter(f"there is no stage {stage}; one of {', '.join(names)}", param_hint="--stage")
    begun = Initial(init) if init in list(Initial) else Path(init)
    if isinstance(begun, Path) and not begun.is_dir():
        raise typer.BadParameter(f"{init} is neither {' nor '.join(Initial)} nor a folder", param_hint="--init")
    if isinstance(begun, Path) and not ordered:
        raise typer.BadParameter(
            "it is about values that are drawn, and a folder has its own", param_hint="--no-ordered"
        )
    train(out, list(STAGES), first=names.index(stage), init=begun, ordered=ordered, seed=seed, sheets=500)


if __name__ == "__main__":
    typer.run(main)
