"""Which loss helps: one small task, taught by each in turn.

`python -m benchmarks.loss_comparison` writes `docs/losses.md`. A LoRA on the seedling learns the emoji set that the seedling
never saw, from a few dozen boxed scenes; everything but the loss is the same, the order of lessons too. What counts is
what a person would still have to mend on held-out scenes, by kind, and how well the boxes lie. The interval is that of
a paired bootstrap over the held-out scenes, against plain cross entropy (location tokens as one bin, as published).
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.fine_tuning import FIRST, HELD, example
from benchmarks.labeling_loop import SETTINGS
from benchmarks.machine import description
from finetune.evaluation import bootstrap
from finetune.evaluation.corrections import Tally, tally
from finetune.evaluation.detection import Pictures, average_precision
from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import tune
from labels.labeled_image import LabeledImage
from prompts.tasks import TASKS
from seedling.scenes.glyphs import CATEGORIES
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.checkpoints.weights import hash_weights
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

ROOT = Path(__file__).parents[1]
PLAIN = "plain cross entropy"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "location-aware smoothing, σ = 2.5 bins": {"sigma": 2.5},
    "label smoothing of words, ε = 0.1": {"smoothing": 0.1},
    "focal, γ = 2, words": {"gamma": 2.0},
    "class weights, (mean / count)^0.5": {"balance": 0.5},
}


@dataclass(frozen=True, slots=True)
class Marks:
    """What a variant's adapter does on the held-out scenes: corrections of each, and COCO's mAP."""

    tallies: list[Tally]
    ap: float
    ap50: float


def settings(steps: int, changed: Mapping[str, Any]) -> TuneConfig:
    """The loop's own (`benchmarks.labeling_loop`), but for the loss; no replay, which would blur it."""
    plain: dict[str, Any] = {"sigma": 0.0, "smoothing": 0.0, "gamma": 0.0, "balance": 0.0}
    same: dict[str, Any] = {"steps": steps, "replay": 0.0, "evaluate": steps, "metric": "loss"}
    return TuneConfig(**(SETTINGS | plain | same | changed))


def asked(engine: Engine, held: Sequence[LabeledImage], adapter: str | None) -> Marks:
    """The held-out scenes' <OD>."""
    task = TASKS["<OD>"]
    handles = [engine.submit(Request(one.open(), task, adapter=adapter)) for one in held]
    pairs: Pictures = [(h.wait().annotations, one.annotations) for h, one in zip(handles, held, strict=True)]
    precision = average_precision(pairs)
    return Marks([tally(found, true, task) for found, true in pairs], precision.ap, precision.ap50)


def taught(
    steps: int, changed: Mapping[str, Any], train: Sequence[LabeledImage], held: Sequence[LabeledImage]
) -> Marks:
    """A new adapter by one loss."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = tune(settings(steps, changed), train, Path(folder, "run"), labels=CATEGORIES, workers=0)
        with Engine.load(EngineConfig(device="cpu", max_waiting=len(held))) as engine:
            engine.load_adapter("taught", outcome.folder)
            return asked(engine, held, "taught")


def row(name: str, marks: Marks, plain: Marks | None) -> str:
    """One line of the table."""
    total = sum(marks.tallies, Tally())
    kinds = (total.wrong_class, total.wrong_box, total.missed, total.made_up)
    against = ""
    if plain is not None:
        difference = bootstrap.corrections(plain.tallies, marks.tallies)
        against = f"{difference.value:+.1f} ({difference.low:+.1f} … {difference.high:+.1f})"
    shares = " | ".join(f"{100 * kind / total.labels:.1f}" for kind in kinds)
    return f"| {name} | {total.per_hundred:.1f} | {against} | {shares} | {marks.ap50:.3f} | {marks.ap:.3f} |"


def page(rows: Sequence[str], steps: int, pictures: int, held: int) -> str:
    """The Markdown of docs/losses.md."""
    head = (
        "| loss | corrections per 100 labels | against plain (95 %) | wrong class | wrong box | missed | made up "
        "| mAP@50 | mAP@50:95 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    about = (
        f"Written by `python -m benchmarks.loss_comparison` on {description()}: a LoRA of rank 16 on the seedling, {steps} "
        f"steps of 8 pictures, taught to detect on {pictures} scenes of the emoji set that the seedling never saw; "
        f"figures on {held} others. Formulas and sources: `finetune/losses.py`."
    )
    return "\n".join(["# Losses compared", "", about, "", head, *rows, ""])


def main(
    steps: Annotated[int, typer.Option(help="Of each loss.")] = 150,
    pictures: Annotated[int, typer.Option(help="That are taught.")] = 60,
    held: Annotated[int, typer.Option(help="Held-out scenes.")] = 200,
    kept: Annotated[Path, typer.Option(help="Folder of what is done: called again, it goes on.")] = ROOT
    / "runs/losses",
    out: Annotated[Path, typer.Option(help="Where the table goes.")] = ROOT / "docs/losses.md",
) -> None:
    """Teaches each, and writes the table."""
    console = Console()
    kept.mkdir(parents=True, exist_ok=True)
    train, test = ([example(first + i) for i in range(count)] for first, count in ((FIRST, pictures), (HELD, held)))
    found: dict[str, Marks] = {}
    of = hash_weights(locate_checkpoint("seedling"))
    for i, (name, changed) in enumerate(VARIANTS.items()):
        path = kept / f"{of[:12]}-{i}-{steps}-{pictures}-{held}.json"
        if path.exists():
            read = json.loads(path.read_text(encoding="utf-8"))
            found[name] = Marks([Tally(**t) for t in read["tallies"]], read["ap"], read["ap50"])
        else:
            found[name] = taught(steps, changed, train, test)
            path.write_text(json.dumps(asdict(found[name])), encoding="utf-8")
        console.print(f"{name}: {sum(found[name].tallies, Tally()).per_hundred:.1f} corrections per 100 labels")
    with Engine.load(EngineConfig(device="cpu", max_waiting=held)) as engine:
        untaught = row("the seedling, untaught", asked(engine, test, None), None)
    plain = found[PLAIN]
    rows = [untaught, *(row(name, marks, plain if name != PLAIN else None) for name, marks in found.items())]
    out.write_text(page(rows, steps, pictures, held), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
