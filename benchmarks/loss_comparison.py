"""Compares loss functions: one small task, trained with each in turn.

`python -m benchmarks.loss_comparison` writes docs/measurements/losses.md. A LoRA adapter on the seedling learns the
holdout glyph set from a few dozen boxed scenes. Everything except the loss is the same, including the order of the
batches. The metrics on holdout scenes are the corrections an annotator would still make, by kind, and the accuracy of
boxes. The interval is that of a paired bootstrap over the holdout scenes against plain cross-entropy (with each
location token as one bin, as published).
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.fine_tuning import HOLDOUT_SEED, TRAIN_SEED
from benchmarks.labeling_loop import SETTINGS
from benchmarks.machine import describe_machine
from benchmarks.workloads import draw_boxed_image
from finetune.evaluation.bootstrap import compare_corrections
from finetune.evaluation.corrections import CorrectionCounts, count_corrections
from finetune.evaluation.detection import AnnotationPairs, compute_average_precision
from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import tune
from finetune.tuning.run_record import TuneData
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
    "location-aware smoothing, σ = 2.5 bins": {"location_sigma": 2.5},
    "label smoothing of words, ε = 0.1": {"label_smoothing": 0.1},
    "focal, γ = 2, words": {"focal_gamma": 2.0},
    "class weights, (mean / count)^0.5": {"class_balance": 0.5},
}


@dataclass(frozen=True, slots=True)
class LossResult:
    """The quality of one adapter on the holdout scenes: corrections of each scene, and COCO's mAP."""

    corrections: list[CorrectionCounts]
    ap: float
    ap50: float


def make_config(steps: int, changes: Mapping[str, Any]) -> TuneConfig:
    """Returns the settings of the labeling loop with another loss, and without replay, which would blur it."""
    plain = {"location_sigma": 0.0, "label_smoothing": 0.0, "focal_gamma": 0.0, "class_balance": 0.0}
    common = {"steps": steps, "replay_share": 0.0, "evaluate_every": steps, "metric": "loss"}
    return TuneConfig(**{**SETTINGS, **plain, **common, **changes})


def evaluate(engine: Engine, holdout: Sequence[LabeledImage], adapter: str | None) -> LossResult:
    """Evaluates `<OD>` on the holdout scenes."""
    task = TASKS["<OD>"]
    handles = [engine.submit(Request(image.open(), task, adapter=adapter)) for image in holdout]
    pairs: AnnotationPairs = [
        (h.wait().annotations, image.annotations) for h, image in zip(handles, holdout, strict=True)
    ]
    precision = compute_average_precision(pairs)
    corrections = [count_corrections(predicted, truth, task) for predicted, truth in pairs]
    return LossResult(corrections, precision.ap, precision.ap50)


def train_and_evaluate(
    steps: int, changes: Mapping[str, Any], train: Sequence[LabeledImage], holdout: Sequence[LabeledImage]
) -> LossResult:
    """Trains a new adapter with one loss and evaluates it."""
    with tempfile.TemporaryDirectory() as folder:
        data = TuneData(tuple(train), classes=CATEGORIES)
        result = tune(make_config(steps, changes), data, Path(folder, "run"), workers=0)
        with Engine.load(EngineConfig(device="cpu", max_waiting=len(holdout))) as engine:
            engine.load_adapter("tuned", result.folder)
            return evaluate(engine, holdout, "tuned")


def format_row(name: str, result: LossResult, plain: LossResult | None) -> str:
    """Returns one row of the table."""
    total = sum(result.corrections, CorrectionCounts())
    kinds = (total.wrong_class, total.localization_error, total.missed, total.false_positive)
    difference = ""
    if plain is not None:
        d = compare_corrections(plain.corrections, result.corrections)
        difference = f"{d.value:+.1f} ({d.low:+.1f} … {d.high:+.1f})"
    shares = " | ".join(f"{100 * kind / total.labels:.1f}" for kind in kinds)
    return f"| {name} | {total.per_hundred:.1f} | {difference} | {shares} | {result.ap50:.3f} | {result.ap:.3f} |"


def format_page(rows: Sequence[str], steps: int, images: int, holdout: int, machine: str) -> str:
    """Returns docs/measurements/losses.md."""
    head = (
        "| loss | corrections per 100 labels | against plain (95 %) | wrong class | localization error | missed "
        "| false positive | mAP@50 | mAP@50:95 |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    about = (
        f"Written by `python -m benchmarks.loss_comparison` on {machine}. A LoRA adapter of rank 16 on the seedling is "
        f"trained for detection, {steps} steps of 8 images, on {images} scenes of the glyph set that the seedling was "
        f"not trained on. The figures are from {holdout} other scenes. Formulas and sources: `finetune/losses.py`."
    )
    return "\n".join(["# Comparison of losses", "", about, "", head, *rows, ""])


def main(
    steps: Annotated[int, typer.Option(help="Steps for each loss.")] = 150,
    images: Annotated[int, typer.Option(help="Scenes for training.")] = 60,
    holdout: Annotated[int, typer.Option(help="Scenes for the metrics.")] = 200,
    results: Annotated[Path, typer.Option(help="Folder for results. Called again, the run continues.")] = ROOT
    / "runs/losses",
    out: Annotated[Path, typer.Option(help="File for the table.")] = ROOT / "docs/measurements/losses.md",
) -> None:
    """Trains with each loss and writes the table."""
    console = Console()
    results.mkdir(parents=True, exist_ok=True)
    train, test = (
        [draw_boxed_image(first + i) for i in range(count)]
        for first, count in ((TRAIN_SEED, images), (HOLDOUT_SEED, holdout))
    )
    found: dict[str, LossResult] = {}
    base = hash_weights(locate_checkpoint("seedling"))
    for i, (name, changes) in enumerate(VARIANTS.items()):
        path = results / f"{base[:12]}-{i}-{steps}-{images}-{holdout}.json"
        if path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            corrections = [CorrectionCounts(**counts) for counts in saved["corrections"]]
            found[name] = LossResult(corrections, saved["ap"], saved["ap50"])
        else:
            found[name] = train_and_evaluate(steps, changes, train, test)
            path.write_text(json.dumps(asdict(found[name])), encoding="utf-8")
        per_hundred = sum(found[name].corrections, CorrectionCounts()).per_hundred
        console.print(f"{name}: {per_hundred:.1f} corrections per 100 labels")
    with Engine.load(EngineConfig(device="cpu", max_waiting=holdout)) as engine:
        base_row = format_row("the seedling, without training", evaluate(engine, test, None), None)
    plain = found[PLAIN]
    rows = [base_row, *(format_row(name, one, plain if name != PLAIN else None) for name, one in found.items())]
    out.write_text(format_page(rows, steps, images, holdout, describe_machine()), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
