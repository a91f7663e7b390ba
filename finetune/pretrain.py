"""Teaches the seedling from scratch: `python -m finetune.pretrain --out runs/seedling` (`make seedling`).

By stages (`stages.py`). `look`: the dense heads alone, until a cell knows what lies on it. `speak`: the answers of all
15 tasks together with the dense heads. `name`: the same with names before letters. `see`: the cells' classes first
again, with a cool-down; `polish`: one more, shorter. `spell`: letters, by pages of words; `settle`: all of it at once,
with a cool-down; `crowd`, `point` and `align`: up to six objects, each with its own. Locations' targets narrow from
σ 10 to 2.5 bins. Warm-up, a constant rate, and a linear cool-down (WSD, Hu et al. 2024, arXiv:2404.06395), so that a
run may be ended early or lengthened without waste. A stopped run goes on at its step when called again; `--init
server/engine/seedling --stage align` takes up committed weights, `--init he` and `--no-ordered` draw the first values
in other ways than the committed seedling's were.

The committed weights came by these stages, in several sittings on shared cores, while the recipe grew: Muon came with
`crowd`; colours, letters' order, pointing (`ASKED`), foreign and wide pictures with `point`; guided attention
(`ALIGNED`), pages of words and letters' true widths with `align`. From scratch, where all of it is there from the first
step, the recipe was never run to its end. Of several processes each takes its share of every batch's pictures
(`ACCELERATE_USE_CPU=1 torchrun --nproc-per-node 2 -m finetune.pretrain …`; as many for each, else some weigh more): on
two cores two of one thread are faster than one of two. What mattered, with the figures of each trial, stands in
`seedling.md` beside this.
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
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Florence2ForConditionalGeneration, PreTrainedTokenizerBase

from finetune import blueprint, forward, progress
from finetune.datasets.scenes.batches import Batch, SceneBatches
from finetune.datasets.scenes.glyphs import CATEGORIES
from finetune.datasets.scenes.questions import COLOURS
from finetune.dense import LETTERS, DenseHeads, DenseLoss
from finetune.initial import Initial
from finetune.losses import IGNORE, alignment_loss, answer_loss
from finetune.muon import Muon
from finetune.precision import attention, precision
from finetune.stages import STAGES, Stage

MEAN = torch.tensor(blueprint.MEAN).view(1, 3, 1, 1)
STD = torch.tensor(blueprint.STD).view(1, 3, 1, 1)
ASKED = 8.0
"""Weight of the encoder's pointing: few places are asked for, so that its loss is small from the start."""

ALIGNED = 1.0
"""Weight of where the decoder looks while it says something about a place."""


class Steps(Dataset[Batch]):
    """All stages' batches, one after the other, by global step; `share`: see `SceneBatches`."""

    def __init__(
        self, stages: list[Stage], tokenizer: PreTrainedTokenizerBase, seed: int, share: tuple[int, int] = (0, 1)
    ) -> None:
        self.stages = stages
        self.batches = [
            SceneBatches(
                tokenizer, side=blueprint.PICTURE, grid=blueprint.GRID, pictures=stage.pictures,
                prompts=stage.prompts, seed=seed * 10 + number, objects=stage.objects, words=stage.words,
                reading=stage.reading, share=share,
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
        words_of = (ids(list(CATEGORIES)), ids(list(LETTERS)), ids(["Ġ" + colour for colour in COLOURS]))
        self.heads = DenseHeads(dim, early, *words_of, self.first_location)
        self.heads.to(accelerator.device)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        parameters = {**dict(model.named_parameters()), **dict(self.heads.named_parameters())}
        matrices = [p for n, p in parameters.items() if p.dim() > 1 and "embed" not in n and "shared" not in n]
        # Kernels by channel are no matrices between features.
        hidden = [p for p in matrices if min(p.flatten(1).shape) >= 32]
        kernels = [p for p in matrices if not any(p is h for h in hidden)]
        rest = [p for p in parameters.values() if not any(p is m for m in matrices)]
        self.parameters = [*matrices, *rest]
        self.optimizers = (
            Muon(hidden, weight_decay=0.02),
            torch.optim.AdamW(
                [{"params": kernels, "weight_decay": 0.02}, {"params": rest, "weight_decay": 0.0}],
                lr=1e-3, betas=(0.9, 0.98), fused=True,
            ),
        )  # fmt: skip

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
            "class": dense.classes, "box": dense.boxes, "colour": dense.colours, "letter": dense.letters,
            "order": dense.orders, "sign": dense.signs,
        }  # fmt: skip
        looked = stage.classes * dense.classes + dense.boxes + dense.colours
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
    blueprint.save(teacher.model, teacher.words, folder)
    teacher.model.load_state_dict(own)


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
    labels them, and a snapshot, which `finetune.progress` measures. `init`: how first values are drawn (see
    `blueprint.initialise`, also for `ordered`), or a checkpoint folder of this shape to start from; the dense heads,
    which no checkpoint holds, start anew."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    accelerator = Accelerator(mixed_precision=precision())
    how = init if isinstance(init, Initial) else Initial.XAVIER
    model, words = blueprint.build(seed, how, ordered=ordered)
    if isinstance(init, Path):
        model = Florence2ForConditionalGeneration.from_pretrained(
            init, dtype=torch.float32, attn_implementation=attention()
        )
        if model.config.text_config.vocab_size != len(words):
            raise SystemExit(
                f"{init} has another vocabulary than the seedling; start from a checkpoint of the seedling"
            )
    teacher = Teacher(model, words, accelerator)
    steps = Steps(stages, words, seed, (accelerator.process_index, accelerator.num_processes))
    begin = sum(stage.steps for stage in stages[:first])
    run = {"seed": seed, "init": str(init), "ordered": ordered, "stages": [asdict(s) for s in stages]}
    if (out / "state.pt").exists():
        _same_run(out / "run.json", run)
        saved = torch.load(out / "state.pt", map_location="cpu", weights_only=True)
        teacher.restore(saved["teacher"])
        begin = saved["step"]
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
        parts = teacher.step(batch, stage, within)
        for part, value in parts.items():
            seen[part].append(value)
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
    train(out, list(STAGES), first=names.index(stage), init=begun, ordered=ordered, seed=seed, sheets=500)


if __name__ == "__main__":
    typer.run(main)
