"""What the seedling can do: `python -m seedling.report` (`make seedling-report`), on scenes that it never saw.

Scenes of seeds 0, 1, 2 …, which training never draws; each asked all 15 tasks through the engine, as a client would.
Then detection again on the same scenes made harder (`seedling.robustness`). `--page` adds what to look at: a person's
corrections by kind and class with the worst pictures, and what is found in pictures of nothing.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rapidfuzz.distance import Levenshtein
from rich.console import Console
from rich.progress import track
from rich.table import Table

from finetune.evaluation import page as pages
from finetune.evaluation.corrections import RIGHT_PLACE
from finetune.evaluation.detection import average_precision
from finetune.evaluation.matching import Counts, box_iou, polygon_iou
from finetune.evaluation.reliability import auroc, ece
from finetune.evaluation.report import examine
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Quad
from prompts.tasks import TASKS
from seedling.robustness import nothing, robustness
from seedling.scenes import samples
from seedling.scenes.batches import TRAINING_SEEDS
from seedling.scenes.colors import CLEAR_MARGIN, main_color_margin
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET, TRAINING_SETS
from seedling.scenes.labeled_images import make_labeled_samples
from seedling.scenes.masks import nearest
from seedling.scenes.samples import COLOR_NAMES, SIZES, plural
from seedling.scenes.scene import Scene
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request

OBJECTS = (1, 6)
"""How many a scene of the report holds, at least and at most."""
LEADING = "description: colour right where one clearly leads"
"""Part of another figure, and so no task's own: what is forgotten is told by the tasks' figures (`finetune.forgetting`)."""
_NOUNS = {form: noun for noun in CATEGORIES for form in (noun, plural(noun))}


def named(text: str) -> dict[str, int]:
    """The categories that a caption names, with their counts: `two dogs` → {dog: 2}."""
    found: dict[str, int] = {}
    words = re.findall(r"[a-z]+", text.lower())
    number = 1
    for word in words:
        if word in samples.NUMBERS:
            number = samples.NUMBERS.index(word)
        elif word in ("a", "an"):
            number = 1
        elif noun := _NOUNS.get(word):
            found[noun] = found.get(noun, 0) + number
            number = 1
    return found


def placed(text: str) -> Counter[tuple[str, str]]:
    """What a paragraph says lies where: `A small red car is at the top left.` → {(car, top left): 1}."""
    return Counter(re.findall(r"(\w+) is at the ([a-z ]+)\.", text))


def words_of(words: Sequence[str], text: str) -> list[str]:
    """Those of `words` that the text holds."""
    return [word for word in words if re.search(rf"\b{word}\b", text)]


def _same_box(label: bool) -> Any:
    def alike(a: Annotation, b: Annotation) -> float:
        if not isinstance(a, Box) or not isinstance(b, Box) or (label and a.label != b.label):
            return 0.0
        return box_iou(a.box, b.box)

    return alike


def _same_quad(a: Annotation, b: Annotation) -> float:
    if not isinstance(a, Quad) or not isinstance(b, Quad) or a.label != b.label:
        return 0.0
    hulls = [(min(q.quad[::2]), min(q.quad[1::2]), max(q.quad[::2]), max(q.quad[1::2])) for q in (a, b)]
    return box_iou(*hulls)


@dataclass
class Marks:
    """Figures as they come in: `counts` for things found, `shares` for things that are right or not; `detected`, a
    picture's boxes found and the true ones, for average precision."""

    counts: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    accuracies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    detected: list[tuple[list[Annotation], list[Annotation]]] = field(default_factory=list)

    def mark(self, question: Sample, scene: Scene, found: list[Annotation]) -> None:
        """Judges one answer against the truth."""
        token, true = question.task.token, list(question.answer)
        text = found[0].label if found else ""
        truth = true[0].label if true else ""
        match token:
            case "<OD>" | "<DENSE_REGION_CAPTION>":
                self.counts[f"{token} F1@0.5"].add(found, true, _same_box(label=True))
                if token == "<OD>":
                    self.detected.append((found, true))
                else:
                    self.counts["<DENSE_REGION_CAPTION> boxes F1@0.5"].add(found, true, _same_box(label=False))
                    self._described(found, true)
            case "<REGION_PROPOSAL>":
                self.counts[f"{token} F1@0.5"].add(found, true, _same_box(label=False))
            case "<CAPTION_TO_PHRASE_GROUNDING>" | "<OPEN_VOCABULARY_DETECTION>":
                if true:
                    self.counts[f"{token} F1@0.5"].add(found, true, _same_box(label=True))
                else:
                    self.accuracies[f"{token} absent: nothing found"].append(not found)
            case "<REFERRING_EXPRESSION_SEGMENTATION>" | "<REGION_TO_SEGMENTATION>":
                rings = [r for f in found if isinstance(f, Polygon) for r in f.polygons]
                want = [r for t in true if isinstance(t, Polygon) for r in t.polygons]
                self.accuracies[f"{token} mean IoU"].append(polygon_iou(rings, want, (scene.width, scene.height)))
            case "<OCR>":
                read = text.split("\n")
                for word in truth.split("\n") if truth else []:
                    self.accuracies[f"{token} exact words"].append(word in read)
            case "<OCR_WITH_REGION>":
                self.counts[f"{token} F1@0.5, words exact"].add(found, true, _same_quad)
            case "<CAPTION>" | "<DETAILED_CAPTION>" | "<MORE_DETAILED_CAPTION>":
                have, want_counts = named(text), named(truth)
                counts = self.counts[f"{token} F1 of named objects"]
                counts.add(list(have), list(want_counts), lambda a, b: float(a == b))
                self.accuracies[f"{token} counts right"].append(have == want_counts)
                if token == "<MORE_DETAILED_CAPTION>" and (there := placed(truth)):
                    self.accuracies[f"{token} positions right"].append((placed(text) & there).total() / there.total())
            case _:
                self.accuracies[f"{token} exact"].append(text == truth)
                if token == "<REGION_TO_DESCRIPTION>":
                    for name, words in ("colour", COLOR_NAMES), ("size", SIZES):
                        self.accuracies[f"{token} {name} right"].append(words_of(words, text) == words_of(words, truth))
                    if (
                        question.region
                        and main_color_margin(nearest(scene.objects, question.region).color_shares) >= CLEAR_MARGIN
                    ):
                        self.accuracies[LEADING].append(self.accuracies[f"{token} colour right"][-1])
                    place = text.rpartition(" at the ")[2] == truth.rpartition(" at the ")[2]
                    self.accuracies[f"{token} place right"].append(place)
                if token == "<REGION_TO_OCR>":
                    # Of the longer of both: what is said too much counts as what is missed.
                    self.accuracies[f"{token} letters right"].append(Levenshtein.normalized_similarity(text, truth))

    def _described(self, found: list[Annotation], true: list[Annotation]) -> None:
        """Whether the words of colour and size are right, of each thing that is found."""
        alike = _same_box(label=False)
        for thing in true:
            best = max(found, key=lambda one: alike(one, thing), default=None)
            if best is not None and alike(best, thing) >= RIGHT_PLACE:
                for name, words in ("colour", COLOR_NAMES), ("size", SIZES):
                    right = words_of(words, best.label) == words_of(words, thing.label)
                    self.accuracies[f"<DENSE_REGION_CAPTION> {name} right"].append(right)

    def figures(self) -> dict[str, float]:
        """Every figure by name, in the order of the tasks."""
        figures = {name: counts.f1 for name, counts in self.counts.items()}
        figures |= {name: float(np.mean(values)) for name, values in self.accuracies.items()}
        proposed = self.counts.get("<REGION_PROPOSAL> F1@0.5")
        if proposed and (all_true := proposed.right + proposed.missed):
            figures["<REGION_PROPOSAL> recall@0.5"] = proposed.right / all_true
        if self.detected:
            precision = average_precision(self.detected)
            figures |= {"<OD> mAP@50": precision.ap50, "<OD> mAP@50:95": precision.ap}
            figures = {name: value for name, value in figures.items() if not math.isnan(value)}
        order = [*TASKS, LEADING.split(" ")[0]]
        figures = dict(sorted(figures.items(), key=lambda kv: order.index(kv[0].split(" ")[0])))
        ranking = auroc(self.counts["<OD> F1@0.5"].scores) if "<OD> F1@0.5" in self.counts else math.nan
        if not math.isnan(ranking):  # a figure that cannot be told is left out: JSON has no NaN
            figures["score: AUROC of right against wrong boxes"] = ranking
            figures["score: ECE of boxes"] = ece(self.counts["<OD> F1@0.5"].scores)
        return figures


def asked_scenes(
    engine: Engine, scenes: int, sets: tuple[str, ...] = TRAINING_SETS, objects: tuple[int, int] = OBJECTS,
    adapter: str | None = None, tasks: Collection[str] = tuple(TASKS),
) -> Iterator[tuple[Scene, list[tuple[Sample, Handle]]]]:  # fmt: skip
    """The report's scenes, seeds 0 … `scenes` - 1, with its questions of `tasks` (tokens), which are being answered."""
    for seed in range(scenes):
        if seed >= TRAINING_SEEDS:
            raise ValueError(f"seeds from {TRAINING_SEEDS} on belong to training")
        rng = np.random.default_rng((seed, 2))
        scene = draw_scene(seed, sets=sets, objects=objects, words=(0, 2))
        every = [q for token in TASKS if (q := samples.make_sample(scene, token, rng))]  # they share one chance
        asked = [q for q in every if q.task.token in tasks]
        yield (
            scene,
            [(q, engine.submit(Request(scene.image, q.task, q.text, q.region, adapter=adapter))) for q in asked],
        )


def measure(
    engine: Engine, scenes: int, sets: tuple[str, ...] = TRAINING_SETS, objects: tuple[int, int] = OBJECTS,
    adapter: str | None = None,
) -> dict[str, float]:  # fmt: skip
    """Asks all tasks of scenes with seeds 0 … `scenes` - 1, drawn from the glyph `sets`."""
    marks = Marks()
    for scene, asked in track(
        asked_scenes(engine, scenes, sets, objects, adapter), "scenes", total=scenes, transient=True
    ):
        for question, handle in asked:
            marks.mark(question, scene, list(handle.wait().annotations))
    return marks.figures()


def illustrate(engine: Engine, folder: Path, scenes: int) -> None:
    """Writes `errors.html` and `errors.json`, the corrections of scenes of seeds 0 … by kind and class with the worst
    answers, and `nothing.png`, what detection finds in empty grounds and in textures."""
    folder.mkdir(parents=True, exist_ok=True)
    report = examine(engine, make_labeled_samples(range(scenes), OBJECTS))
    report.save(folder / "errors.json")
    pages.write(folder / "errors.html", report, f"{scenes} drawn scenes that were never taught")
    nothing(engine).save(folder / "nothing.png")


def main(
    model: Annotated[str, typer.Option(help="Checkpoint: `seedling`, a folder or a hub id.")] = "seedling",
    scenes: Annotated[int, typer.Option(min=1, help="How many unseen scenes.")] = 500,
    out: Annotated[Path | None, typer.Option(help="Also write the figures here, as JSON.")] = None,
    page: Annotated[Path | None, typer.Option(help="Folder for errors.html and nothing.png, to look at.")] = None,
) -> None:
    """Prints what a checkpoint can do on unseen scenes, and on glyphs of a set that training never saw."""
    with closing(Engine.load(EngineConfig(model))) as engine:
        seen = measure(engine, scenes, TRAINING_SETS)
        unseen = measure(engine, scenes, (HOLDOUT_SET,))
        hard = robustness(engine, min(scenes, 200))
        if out:
            out.write_text(json.dumps({"scenes": scenes, "known": seen, HOLDOUT_SET: unseen, "hard": hard}, indent=2))
        table = Table(title=f"{model}: {scenes} unseen scenes of {OBJECTS[0]}-{OBJECTS[1]} objects, greedy")
        table.add_column("Figure")
        table.add_column("known glyph sets", justify="right")
        table.add_column(f"{HOLDOUT_SET}, never seen", justify="right")
        for name, value in seen.items():
            table.add_row(name, f"{value:.3f}", f"{unseen.get(name, float('nan')):.3f}")
        for name, value in hard.items():
            table.add_row(name, f"{value:.3f}", "")
        Console(width=120).print(table)
        if page:
            illustrate(engine, page, scenes)


if __name__ == "__main__":
    typer.run(main)
