"""Measures a checkpoint on scenes that training never draws: `python -m seedling.report` (`make seedling-report`).

Scenes with seeds 0, 1, 2 … are sent through the engine with all 15 tasks, as a client would. Detection is measured
again on harder versions of the same scenes (`seedling.robustness`). `--page` adds pages to look at: the corrections an
annotator would make, by kind and class, with the worst images; and detections in images without objects.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from finetune.evaluation.page import write_page
from finetune.evaluation.report import evaluate_samples
from labels.sample import Sample
from prompts.tasks import FLORENCE_TASKS
from seedling.robustness import draw_false_positives, measure_robustness
from seedling.scenes import samples
from seedling.scenes.batches import TRAINING_SEEDS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET, TRAINING_SETS
from seedling.scenes.labeled_images import make_labeled_samples
from seedling.scenes.scene import Scene
from seedling.scores import TaskScores
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request

OBJECTS = (1, 6)
"""Minimum and maximum number of objects in a scene of the report."""


def submit_scenes(
    engine: Engine, scenes: int, sets: tuple[str, ...] = TRAINING_SETS, objects: tuple[int, int] = OBJECTS,
    adapter: str | None = None, tasks: Collection[str] = tuple(FLORENCE_TASKS),
) -> Iterator[tuple[Scene, list[tuple[Sample, Handle]]]]:  # fmt: skip
    """Yields the report's scenes, seeds 0 to `scenes` - 1, with its samples of `tasks` (tokens), already submitted.

    Raises ValueError when seeds reach those of training.
    """
    for seed in range(scenes):
        if seed >= TRAINING_SEEDS:
            raise ValueError(f"seeds from {TRAINING_SEEDS} on are for training")
        rng = np.random.default_rng((seed, 2))
        scene = draw_scene(seed, sets=sets, objects=objects, words=(0, 2))
        # All tasks share one generator, so samples do not depend on `tasks`.
        scene_samples = [sample for token in FLORENCE_TASKS if (sample := samples.make_sample(scene, token, rng))]
        selected = [sample for sample in scene_samples if sample.task.token in tasks]
        requests = [Request(scene.image, s.task, s.text, s.region, adapter=adapter) for s in selected]
        yield scene, [(s, engine.submit(request)) for s, request in zip(selected, requests, strict=True)]


def measure(
    engine: Engine, scenes: int, sets: tuple[str, ...] = TRAINING_SETS, objects: tuple[int, int] = OBJECTS,
    adapter: str | None = None,
) -> dict[str, float]:  # fmt: skip
    """Returns the metrics of all tasks on scenes with seeds 0 to `scenes` - 1, drawn from the glyph `sets`."""
    scores = TaskScores()
    submitted = submit_scenes(engine, scenes, sets, objects, adapter)
    for scene, answers in track(submitted, "scenes", total=scenes, transient=True):
        for sample, handle in answers:
            scores.add(sample, scene, list(handle.wait().annotations))
    return scores.compute()


def write_pages(engine: Engine, folder: Path, scenes: int) -> None:
    """Writes pages to look at.

    `errors.html` and `errors.json` list corrections of scenes 0 to `scenes` - 1 by kind and class, with the worst
    answers. `false-positives.png` shows detections in plain backgrounds and textures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = evaluate_samples(engine, make_labeled_samples(range(scenes), OBJECTS))
    report.save(folder / "errors.json")
    write_page(folder / "errors.html", report, f"{scenes} drawn scenes that training never used")
    draw_false_positives(engine).save(folder / "false-positives.png")


def main(
    model: Annotated[str, typer.Option(help="Checkpoint: `seedling`, a folder or a hub ID.")] = "seedling",
    scenes: Annotated[int, typer.Option(min=1, help="Number of unseen scenes.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Also write the metrics to this file, as JSON.")] = None,
    page: Annotated[Path | None, typer.Option(help="Folder for errors.html and false-positives.png.")] = None,
) -> None:
    """Prints the metrics of a checkpoint on unseen scenes, also on a glyph set that training never uses."""
    with closing(Engine.load(EngineConfig(model))) as engine:
        known = measure(engine, scenes, TRAINING_SETS)
        holdout = measure(engine, scenes, (HOLDOUT_SET,))
        robustness = measure_robustness(engine, min(scenes, 200))
        if out:
            metrics = {"scenes": scenes, "training_glyphs": known, HOLDOUT_SET: holdout, "robustness": robustness}
            out.write_text(json.dumps(metrics, indent=2))
        table = Table(title=f"{model}: {scenes} unseen scenes of {OBJECTS[0]}-{OBJECTS[1]} objects, greedy")
        table.add_column("Metric")
        table.add_column("glyph sets of training", justify="right")
        table.add_column(f"{HOLDOUT_SET} (holdout)", justify="right")
        for name, value in known.items():
            table.add_row(name, f"{value:.3f}", f"{holdout.get(name, float('nan')):.3f}")
        for name, value in robustness.items():
            table.add_row(name, f"{value:.3f}", "")
        Console(width=120).print(table)
        if page:
            write_pages(engine, page, scenes)


if __name__ == "__main__":
    typer.run(main)
