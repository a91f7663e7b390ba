"""What a review threshold finds: of the labels below it, and above it, how many need a correction.

`python -m benchmarks.review_thresholds` writes docs/measurements/review.md. The seedling labels unseen scenes: of the
glyph sets that it was trained on, and of one that it never saw, as a new project's images are. Its scores are
calibrated, on other scenes of the first kind.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.machine import describe_machine
from benchmarks.results import Measurement, report_measurements
from finetune.evaluation.corrections import CorrectionKind, find_corrections, mark_correct
from finetune.evaluation.reliability import Scores, compute_ece
from labels.label_kind import LabelKind
from prompts.tasks import TASKS
from seedling.scenes import samples
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import HOLDOUT_SET, TRAINING_SETS
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request
from server.jobs.recipes.review_thresholds import DEFAULT_THRESHOLDS

PAGE = Path(__file__).parents[1] / "docs" / "measurements" / "review.md"
FIRST_SEED = 240_000  # other scenes than those of training, calibration and the other measurements
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
KINDS = {"objects": "<OD>", "words": "<OCR_WITH_REGION>", "captions": "<CAPTION>"}
IMAGES = {"known art": TRAINING_SETS, "unseen art": (HOLDOUT_SET,)}


def collect_scores(engine: Engine, token: str, sets: tuple[str, ...], scenes: int) -> tuple[Scores, int]:
    """Returns the score of each label of a task and whether it is correct, and the number of labels that are missed."""
    found: list[tuple[float, bool]] = []
    missed = 0
    submitted = []
    for seed in range(FIRST_SEED, FIRST_SEED + scenes):
        scene = draw_scene(seed, sets=sets, objects=(1, 6), words=(0, 2))
        sample = samples.make_sample(scene, token, np.random.default_rng((seed, 2)))
        if sample is not None:
            submitted.append((sample, engine.submit(Request(scene.image, sample.task, sample.text, sample.region))))
    for sample, handle in submitted:
        answers = handle.wait().annotations
        found += [(label.score or 0.0, ok) for label, ok in mark_correct(answers, sample.answer, sample.task)]
        corrections = find_corrections(answers, sample.answer, sample.task)
        missed += sum(correction.kind is CorrectionKind.MISSED for correction in corrections)
    return found, missed


def measure(name: str, kind: str, scores: Scores, missed: int) -> list[Measurement]:
    """Returns the figures of each threshold."""
    workload = f"{kind}, {name}"
    wrong = sum(not ok for _, ok in scores)
    rows = [
        Measurement(workload, "labels", len(scores), ""),
        Measurement(
            workload, "wrong", 100 * wrong / len(scores), "%", note=f"error of the scores {compute_ece(scores):.3f}"
        ),
        Measurement(workload, "missed", missed, ""),
    ]
    for threshold in THRESHOLDS:
        below = [ok for score, ok in scores if score < threshold]
        above = [ok for score, ok in scores if score >= threshold]
        wrong_below = below.count(False)
        rows += [
            Measurement(workload, f"below {threshold:g}: labels", 100 * len(below) / len(scores), "%"),
            Measurement(workload, f"below {threshold:g}: wrong", 100 * wrong_below / max(1, len(below)), "%"),
            Measurement(workload, f"above {threshold:g}: wrong", 100 * above.count(False) / max(1, len(above)), "%"),
            Measurement(workload, f"below {threshold:g}: of all wrong", 100 * wrong_below / max(1, wrong), "%"),
        ]
    return rows


def write_page(path: Path, rows: Sequence[Measurement], scenes: int) -> None:
    """Writes the page of the documentation."""
    lines = [
        "# Review thresholds",
        "",
        f"Written by `python -m benchmarks.review_thresholds` on {describe_machine()}. The seedling labels {scenes:,} "
        "scenes of the art that it was trained on, and as many of an art set that it never saw, as a new project's "
        "images are. Its scores are calibrated on other scenes of the first kind. A label is wrong if a person would "
        "have to relabel, move, retype or delete it.",
        "",
        "The built-in recipes and `florist label --task` mark objects and words below "
        f"{DEFAULT_THRESHOLDS[LabelKind.OBJECTS]:g} and {DEFAULT_THRESHOLDS[LabelKind.WORDS]:g}. Between 0.8 and 0.9, "
        "a fifth of the objects of known art and half of those of unseen art are wrong, so that a look at them is "
        "worth its time. Captions are not to review: many sentences are right in other words, so that most would "
        "be marked.",
        "",
        "On unseen art, scores are too high until an adapter is tuned and has its own calibration. They still tell "
        "wrong labels from the others, but a threshold finds fewer of them.",
        "",
    ]
    for workload, group in groupby(rows, lambda row: row.workload):
        values = {row.system: row for row in group}
        wrong = values["wrong"]
        lines += [
            f"## {workload[0].upper()}{workload[1:]}",
            "",
            f"{values['labels'].value:,.0f} labels, {wrong.value:.1f} % of them wrong; {wrong.note}. "
            f"{values['missed'].value:,.0f} labels are missed, which no threshold finds.",
            "",
            "| threshold | labels to review | of these wrong | of the others wrong | of all wrong labels found |",
            "|---:|---:|---:|---:|---:|",
        ]
        for threshold in THRESHOLDS:
            below, above = f"below {threshold:g}", f"above {threshold:g}"
            names = (f"{below}: labels", f"{below}: wrong", f"{above}: wrong", f"{below}: of all wrong")
            cells = " | ".join(f"{values[name].value:.1f} %" for name in names)
            lines.append(f"| {threshold:g} | {cells} |")
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")


def main(
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes of each kind.")] = 300,
    out: Annotated[Path | None, typer.Option(help="Also write the figures as JSON.")] = None,
    page: Annotated[Path, typer.Option(help="The page that is written.")] = PAGE,
) -> None:
    """Measures what review thresholds find."""
    rows: list[Measurement] = []
    with Engine.load(EngineConfig(SEEDLING)) as engine:
        for kind, token in KINDS.items():
            for name, sets in IMAGES.items():
                rows += measure(name, kind, *collect_scores(engine, TASKS[token].token, sets, scenes))
    report_measurements("Review thresholds", rows, out)
    write_page(page, rows, scenes)


if __name__ == "__main__":
    typer.run(main)
