"""A run in pictures: what the checkpoint of the moment answers on a dozen unseen scenes, and
`python -m seedling.progress RUN`: the report's figures of all its snapshots over the minutes of training."""

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
from seedling.report import Marks, measure
from seedling.scenes.batches import TRAINING_SEEDS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.samples import make_sample
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

SEEDS = range(TRAINING_SEEDS - 12, TRAINING_SEEDS)
SNAPSHOTS = "snapshots"
FOUND = {
    "detection, mAP@50": "<OD> mAP@50",
    "region → category": "<REGION_TO_CATEGORY> exact",
    "open vocabulary, F1@0.5": "<OPEN_VOCABULARY_DETECTION> F1@0.5",
    "grounding, F1@0.5": "<CAPTION_TO_PHRASE_GROUNDING> F1@0.5",
    "open vocabulary, absent": "<OPEN_VOCABULARY_DETECTION> absent: nothing found",
    "grounding, absent": "<CAPTION_TO_PHRASE_GROUNDING> absent: nothing found",
}
TOLD = {
    "region → polygon, mean IoU": "<REGION_TO_SEGMENTATION> mean IoU",
    "referring, mean IoU": "<REFERRING_EXPRESSION_SEGMENTATION> mean IoU",
    "region → text, whole words": "<REGION_TO_OCR> exact",
    "region → text, letters": "<REGION_TO_OCR> letters right",
    "colours of descriptions": "<REGION_TO_DESCRIPTION> colour right",
    "caption, counts right": "<CAPTION> counts right",
}


def look(checkpoint: Path, sheet: Path) -> float:
    """Labels the scenes, draws them into `sheet` (a PNG file) and returns the detection's F1 at IoU 0.5."""
    marks, pictures = Marks(), []
    with Engine.load(EngineConfig(str(checkpoint))) as engine:
        for seed in SEEDS:
            scene = draw_scene(seed)
            tokens = ("<OD>", "<OCR_WITH_REGION>", "<CAPTION>")
            handles = [engine.submit(Request(scene.image, TASKS[token], max_new_tokens=96)) for token in tokens]
            found = [list(handle.wait().annotations) for handle in handles]
            pictures.append(drawing.draw(scene.image, [label for labels in found for label in labels]))
            truth = make_sample(scene, "<OD>", np.random.default_rng(seed))
            assert isinstance(truth, Sample)  # every scene can be asked what is on it
            marks.mark(truth, scene, found[0])
    drawing.contact_sheet(pictures).save(sheet)
    return marks.figures()["<OD> F1@0.5"]


def minutes(log: Path) -> dict[int, float]:
    """Step → minutes of training until then, by a run's log, without what was done twice after a stop."""
    found: dict[int, float] = {}
    for line in map(json.loads, log.read_text().splitlines()):
        before = max((step for step in found if step < line["step"]), default=line["step"] - 50)
        found[line["step"]] = found.get(before, 0.0) + (line["step"] - before) * line["seconds"] / 60
    return dict(sorted(found.items()))


def measured(run: Path, scenes: int) -> list[dict[str, Any]]:
    """The figures of each snapshot of a run on the report's first scenes, in order, with its step and minutes; those
    that `curve.json` has are not measured again."""
    kept = run / "curve.json"
    rows = {row["step"]: row for row in (json.loads(kept.read_text()) if kept.exists() else [])}
    times = minutes(run / "log.jsonl")
    for folder in track(sorted((run / SNAPSHOTS).iterdir(), key=lambda one: int(one.name)), "snapshots"):
        step = int(folder.name)
        if rows.get(step, {}).get("scenes") == scenes:
            continue
        with Engine.load(EngineConfig(str(folder))) as engine:
            figures = measure(engine, scenes)
        before = [spent for at, spent in times.items() if at <= step]
        rows[step] = {"step": step, "minutes": before[-1] if before else 0.0, "scenes": scenes, "figures": figures}
        kept.write_text(json.dumps([rows[step] for step in sorted(rows)], indent=1) + "\n")
    return [rows[step] for step in sorted(rows)]


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """The figures over the minutes: what is found, and what is told."""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    for axes, names in zip(figure.subplots(1, 2, sharey=True), (FOUND, TOLD), strict=True):
        for label, name in names.items():
            points = [(row["minutes"], row["figures"][name]) for row in rows if name in row["figures"]]
            if points:  # few scenes hold no question of some kinds
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1.2, label=label)
        axes.set(xlabel="minutes of training", ylim=(0, 1))
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a run of seedling.pretrain.")],
    scenes: Annotated[
        int, typer.Option(min=1, help="How many of the report's scenes each snapshot is asked about.")
    ] = 40,
    out: Annotated[Path | None, typer.Option(help="The drawing; its ending says the format.")] = None,
) -> None:
    """Measures a run's snapshots and draws their figures."""
    if not (run / SNAPSHOTS).is_dir():
        raise typer.BadParameter(f"{run} has no {SNAPSHOTS}: a run keeps one each 500 steps", param_hint="RUN")
    plot(measured(run, scenes), out or run / "curve.png")


if __name__ == "__main__":
    typer.run(main)
