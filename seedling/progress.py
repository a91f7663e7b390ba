"""Shows the progress of a training run.

During training: a sheet of a dozen unseen scenes with the current predictions. Afterwards, `python -m
seedling.progress RUN` measures all snapshots of a run and plots their metrics over the minutes of training.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from rich.progress import track

from labels import drawing
from labels.sample import Sample
from prompts.tasks import TASKS
from seedling.report import measure
from seedling.scenes.batches import TRAINING_SEEDS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from seedling.scores import TaskScores
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

SEEDS = range(TRAINING_SEEDS - 12, TRAINING_SEEDS)
SNAPSHOTS = "snapshots"
# Label in the plot → name of the metric.
LEFT_PLOT = {
    "detection, mAP@50": "<OD> mAP@50",
    "region → category": "<REGION_TO_CATEGORY> exact match",
    "open vocabulary, F1@0.5": "<OPEN_VOCABULARY_DETECTION> F1@0.5",
    "grounding, F1@0.5": "<CAPTION_TO_PHRASE_GROUNDING> F1@0.5",
    "open vocabulary, absent": "<OPEN_VOCABULARY_DETECTION> absent phrases rejected",
    "grounding, absent": "<CAPTION_TO_PHRASE_GROUNDING> absent phrases rejected",
}
RIGHT_PLOT = {
    "region → polygon, mean IoU": "<REGION_TO_SEGMENTATION> mean IoU",
    "referring, mean IoU": "<REFERRING_EXPRESSION_SEGMENTATION> mean IoU",
    "region → text, whole words": "<REGION_TO_OCR> exact match",
    "region → text, characters": "<REGION_TO_OCR> character similarity",
    "colors of descriptions": "<REGION_TO_DESCRIPTION> color accuracy",
    "caption, counts": "<CAPTION> count accuracy",
}


def draw_sheet(checkpoint: Path, sheet: Path) -> float:
    """Draws the dozen scenes with the checkpoint's predictions into `sheet` (a PNG file).

    Returns the detection's F1 at IoU 0.5.
    """
    scores, images = TaskScores(), []
    with Engine.load(EngineConfig(str(checkpoint))) as engine:
        for seed in SEEDS:
            scene = draw_scene(seed)
            tokens = ("<OD>", "<OCR_WITH_REGION>", "<CAPTION>")
            handles = [engine.submit(Request(scene.image, TASKS[token], max_new_tokens=96)) for token in tokens]
            predictions = [list(handle.wait().annotations) for handle in handles]
            images.append(
                drawing.draw_annotations(scene.image, [annotation for one in predictions for annotation in one])
            )
            sample = make_sample(scene, "<OD>", np.random.default_rng(seed))
            assert isinstance(sample, Sample)  # every scene has a detection sample
            scores.add(sample, scene, predictions[0])
    drawing.draw_contact_sheet(images).save(sheet)
    return scores.compute()["<OD> F1@0.5"]


def read_minutes(log: Path) -> dict[int, float]:
    """Returns step → minutes of training up to it, from a run's log. Steps repeated after a stop count once."""
    minutes: dict[int, float] = {}
    for line in map(json.loads, log.read_text().splitlines()):
        before = max((step for step in minutes if step < line["step"]), default=line["step"] - 50)
        minutes[line["step"]] = minutes.get(before, 0.0) + (line["step"] - before) * line["seconds"] / 60
    return dict(sorted(minutes.items()))


def measure_snapshots(run: Path, scenes: int) -> list[dict[str, Any]]:
    """Returns the metrics of each snapshot of a run on the report's first scenes, with its step and minutes.

    Results are kept in `curve.json`; snapshots found there are not measured again.
    """
    results = run / "curve.json"
    rows = {row["step"]: row for row in (json.loads(results.read_text()) if results.exists() else [])}
    minutes = read_minutes(run / "log.jsonl")
    for folder in track(sorted((run / SNAPSHOTS).iterdir(), key=lambda one: int(one.name)), "snapshots"):
        step = int(folder.name)
        if rows.get(step, {}).get("scenes") == scenes:
            continue
        with Engine.load(EngineConfig(str(folder))) as engine:
            metrics = measure(engine, scenes)
        earlier = [total for at, total in minutes.items() if at <= step]
        rows[step] = {"step": step, "minutes": earlier[-1] if earlier else 0.0, "scenes": scenes, "metrics": metrics}
        results.write_text(json.dumps([rows[step] for step in sorted(rows)], indent=1) + "\n")
    return [rows[step] for step in sorted(rows)]


def plot_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plots the metrics over the minutes of training: located objects on the left, the rest on the right."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2, sharey=True), (LEFT_PLOT, RIGHT_PLOT), strict=True):
        for label, name in names.items():
            points = [(row["minutes"], row["metrics"][name]) for row in rows if name in row["metrics"]]
            if points:  # a few scenes may lack samples of a task
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1.2, label=label)
        axes.set(xlabel="minutes of training", ylim=(0, 1))
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a run of seedling.pretrain.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of the report's scenes per snapshot.")] = 40,
    out: Annotated[Path | None, typer.Option(help="File of the plot; its suffix sets the format.")] = None,
) -> None:
    """Measures a run's snapshots and plots their metrics."""
    if not (run / SNAPSHOTS).is_dir():
        raise typer.BadParameter(f"{run} has no {SNAPSHOTS}: a run takes one every 500 steps", param_hint="RUN")
    plot_curves(measure_snapshots(run, scenes), out or run / "curve.png")


if __name__ == "__main__":
    typer.run(main)
