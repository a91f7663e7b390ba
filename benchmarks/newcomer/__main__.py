"""A newcomer's project, measured: 60 images in a style that the seedling has not seen, with two new classes.

`python -m benchmarks.newcomer` walks the whole path by the command line and HTTP, and prints how many corrections per
100 labels are left on other images after each step.
"""

import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.newcomer.images import CLASSES
from benchmarks.newcomer.path import (
    NewcomerPath,
    ProjectClient,
    Round,
    count_left,
    list_unknown_names,
)
from benchmarks.reliability.server import KillableServer
from benchmarks.results import Measurement, report_measurements
from labels.formats import FORMATS

SETTINGS: dict[str, Any] = {"learning_rate": 3e-3, "hue": 0.5, "frozen_stages": 2, "location_weight": 0.4}
"""As in `benchmarks.labeling_loop`: locations are right before any training."""


def walk(path: NewcomerPath, steps: int) -> list[Measurement]:
    """Walks the path, and returns the corrections that are left after each step."""

    def measure(what: str, out: str, *options: str, note: str = "") -> Measurement:
        labeled = path.label("test", out, *options)
        names, left = list_unknown_names(labeled), count_left(labeled, path.test)
        note = "; ".join(filter(None, (note, f"{len(names)} names are no class" if names else "")))
        print(f"{what}: {left:.1f}; {note}", flush=True)
        return Measurement("newcomer", what, left, "per 100", note=note)

    path.label("images", "first", "--recipe", "detect")
    measurements = [measure("the seedling", "test-before", "--recipe", "detect")]
    pool = list(path.pool.values())
    recipe = "detect"
    with KillableServer(path.root, "--log-level", "warning") as server:
        project = ProjectClient(server)
        project.create(CLASSES)
        for number, images in enumerate((pool[: len(pool) // 2], pool[len(pool) // 2 :]), 1):
            project.correct(images)
            round = _run_round(project, number * len(pool) // 2, steps, has_champion=recipe != "detect")
            if round.promoted:
                recipe = path.write_recipe()
            outcome = "promoted" if round.promoted else "not promoted"
            note = f"run of {round.minutes:.1f} min: {round.run['state']}; {outcome}"
            print(f"backtest: {round.backtest.get('comparison')}", flush=True)
            measurements.append(
                measure(f"{round.corrected} images corrected", f"test-{number}", "--recipe", recipe, note=note)
            )
        folders = [name for name, format in FORMATS.items() if format.suffix is None]
        path.label("images", "final", "--recipe", recipe, *(part for name in folders for part in ("--format", name)))
        for name in FORMATS.keys() - folders:  # one file, beside which `convert` can put images
            source, target = str(path.root / "final/coco"), str(path.root / "final" / name)
            path.run_florist("convert", source, "--out", target, "--to", name, "--images", "copy")
    return measurements


def _run_round(project: ProjectClient, corrected: int, steps: int, *, has_champion: bool) -> Round:
    start = time.monotonic()
    initial = {"initial_model": "champion"} if has_champion else {}
    run = project.tune({**SETTINGS, **initial, "steps": steps})
    round = Round(corrected, run, (time.monotonic() - start) / 60)
    for model in run["models"]:
        round.backtest = project.backtest(model)
        round.promoted = project.promote(model)
    return round


def main(
    images: Annotated[int, typer.Option(min=4, help="Images of the project.")] = 60,
    test_images: Annotated[int, typer.Option(min=1, help="Other images, on which the figures are counted.")] = 150,
    steps: Annotated[int, typer.Option(min=1, help="Of each fine-tune run.")] = 400,
    folder: Annotated[Path | None, typer.Option(help="Where the files stay; it must not exist.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints the corrections per 100 labels that are left after each step of the path."""
    with tempfile.TemporaryDirectory() if folder is None else nullcontext(folder) as name:
        measurements = walk(NewcomerPath(Path(name), images, test_images), steps)
    report_measurements("A newcomer's project", measurements, out)


if __name__ == "__main__":
    typer.run(main)
