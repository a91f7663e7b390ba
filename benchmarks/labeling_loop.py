"""Measures the labeling loop: correct, tune, backtest, promote. `python -m benchmarks.labeling_loop` (`make loop`).

The project's images are scenes of the holdout glyph set, a style that the seedling was not trained on. In each round
the champion labels the pool; an annotator (the ground truth) corrects the selected images; a LoRA adapter is trained on
all corrected images, starting from the champion; and a backtest on holdout images decides about its promotion. The
figures come from test images that neither training nor backtest use. A loop that was stopped continues when it is
called again.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from benchmarks import labeling_loop_page
from benchmarks.machine import describe_machine
from benchmarks.workloads import draw_boxed_image
from finetune.active_learning import select_next
from finetune.evaluation.bootstrap import compare_corrections
from finetune.evaluation.corrections import CorrectionCounts
from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import tune
from finetune.tuning.run_record import TuneData
from finetune.tuning.validation import ValidationSet
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation
from prompts.tasks import TASKS
from seedling.forgetting import compute_lost_points, measure_quality
from seedling.replay import SceneReplay
from seedling.scenes.glyphs import CATEGORIES
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.checkpoints.weights import hash_weights
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

ROOT = Path(__file__).parents[1]
POOL_SEED, BACKTEST_SEED, TEST_SEED = 200_000, 210_000, 220_000  # above the report's seeds, below those of training
STRATEGIES = ("uncertainty", "random")
SETTINGS: dict[str, Any] = {
    "tasks": ("<OD>",), "learning_rate": 3e-3, "replay_share": 0.3, "augmentation": 0.5, "hue": 0.5, "batch_size": 8,
    "prompts_per_image": 4, "frozen_stages": 2, "location_weight": 0.4,
}  # fmt: skip
"""A project image has one detection prompt, a replayed one up to `prompts_per_image` prompts. Locations are right
before any training, so they weigh less than names. docs/measurements/tuning-trials.md lists other trials."""
VIEWS = 960
"""Augmented versions of all images of a round; the frozen stages encode each of them once."""
console = Console(width=140)


@cache
def draw_corrected_image(seed: int) -> LabeledImage:
    """Returns an image as an annotator leaves it: every object boxed and named."""
    return draw_boxed_image(seed)


def draw_corrected_images(first: int, count: int) -> list[LabeledImage]:
    """Returns images of consecutive seeds."""
    return [draw_corrected_image(first + i) for i in range(count)]


@dataclass
class LoopChampion:
    """The model that labels the project now. Without an adapter it is the base."""

    adapter: Path | None = None
    round: int = 0


class LabelingLoop:
    """The loop with one selection strategy. The images of a round share `settings.views_per_image` views."""

    def __init__(self, out: Path, strategy: str, settings: TuneConfig, images: dict[str, int]) -> None:
        self.out, self.strategy, self.settings, self.images = out / strategy, strategy, settings, images
        tasks = ("<OD>",)
        self.backtest = ValidationSet(draw_corrected_images(BACKTEST_SEED, images["backtest"]), CATEGORIES, tasks)
        self.test = ValidationSet(draw_corrected_images(TEST_SEED, images["test"]), CATEGORIES, tasks)
        self.selected: list[int] = []
        self.champion = LoopChampion()
        self.rows: list[dict[str, Any]] = []
        self.base_quality: dict[str, float] = {}

    def run(self, rounds: Sequence[int], steps: Sequence[int]) -> list[dict[str, Any]]:
        """Runs all rounds; finished rounds of an earlier call are not repeated."""
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / "rows.json"
        base = hash_weights(locate_checkpoint(self.settings.base))
        identity = {"base": base, "settings": self.settings.model_dump(mode="json"), "images": self.images}
        saved: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {**identity, "rows": []}
        finished: list[dict[str, Any]] = saved.pop("rows")
        if saved != identity:
            message = f"{path} belongs to other weights, settings or images; use another folder"
            raise typer.BadParameter(message, param_hint="--out")
        for number, (count, length) in enumerate(zip((0, *rounds), (0, *steps), strict=True)):
            if number < len(finished):
                if (finished[number]["corrected"], finished[number]["steps"]) != (count, length):
                    raise typer.BadParameter(f"{path} belongs to other rounds; use another folder", param_hint="--out")
                self._restore(finished[number])
                continue
            start = time.monotonic()
            row = self._run_round(number, count, length) if number else self._measure_base()
            seconds = time.monotonic() - start + row.pop("earlier", 0.0)
            self.rows.append({**row, "steps": length, "seconds": round(seconds, 1)})
            path.write_text(json.dumps({**identity, "rows": self.rows}, indent=1))
            console.print({k: v for k, v in self.rows[-1].items() if k not in ("selected", "quality")})
        return self.rows

    def _restore(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.selected = list(row["selected"])
        self.base_quality = self.base_quality or row["quality"]
        if row["promoted"]:
            self.champion = LoopChampion(self.out / f"round-{row['round']}" / "adapter", row["round"])

    def _measure_base(self) -> dict[str, Any]:
        with Engine.load(EngineConfig(self.settings.base)) as engine:
            self.base_quality = measure_quality(engine)
            total = sum(self.test.count_corrections(engine), CorrectionCounts())
            return self._make_row(0, total, self.base_quality, promoted=False)

    def _run_round(self, number: int, count: int, steps: int) -> dict[str, Any]:
        self._select(count)
        folder = self.out / f"round-{number}"
        start_adapter = str(self.champion.adapter) if self.champion.adapter else ""
        views = max(1, self.settings.views_per_image // count)
        changes = {"steps": steps, "start_adapter": start_adapter, "views_per_image": views}
        settings = self.settings.model_copy(update=changes)
        start = time.monotonic()
        images = tuple(draw_corrected_image(seed) for seed in self.selected)
        result = tune(
            settings, TuneData(images, classes=CATEGORIES, replay=SceneReplay()), folder,
            on_log=lambda line: console.print(f"  {self.strategy} {count}: step {line['step']}/{steps}"),
        )  # fmt: skip
        earlier = max(0.0, result.seconds - (time.monotonic() - start))  # of a run that was stopped and resumed
        with Engine.load(EngineConfig(settings.base)) as engine:
            engine.load_adapter("challenger", result.folder)
            if self.champion.adapter:
                engine.load_adapter("champion", self.champion.adapter)
            old = self.backtest.count_corrections(engine, "champion" if self.champion.adapter else None)
            difference = compare_corrections(old, self.backtest.count_corrections(engine, "challenger"))
            if promoted := difference.high < 0:
                self.champion = LoopChampion(result.folder, number)
            name = "challenger" if promoted else "champion" if self.champion.adapter else None
            quality, test_start = measure_quality(engine, name), time.monotonic()
            total = sum(self.test.count_corrections(engine, name), CorrectionCounts())
            earlier -= time.monotonic() - test_start  # only this benchmark runs the test
        return {
            **self._make_row(count, total, quality, promoted=promoted), "round": number,
            "tuning_seconds": round(result.seconds, 1), "earlier": earlier, "backtest": round(difference.value, 1),
            "interval": [round(difference.low, 1), round(difference.high, 1)],
        }  # fmt: skip

    def _make_row(
        self, count: int, total: CorrectionCounts, quality: dict[str, float], *, promoted: bool
    ) -> dict[str, Any]:
        lost = compute_lost_points(self.base_quality, quality)
        return {
            "corrected": count, "per_hundred": round(total.per_hundred, 1), "missed": total.missed,
            "wrong_class": total.wrong_class, "localization_error": total.localization_error,
            "false_positive": total.false_positive, "labels": total.labels, "promoted": promoted,
            "lost": round(lost["mean"], 1), "quality": quality, "selected": list(self.selected),
        }  # fmt: skip

    def _select(self, count: int) -> None:
        """Selects further images to correct, up to `count` in total."""
        remaining = [s for s in range(POOL_SEED, POOL_SEED + self.images["pool"]) if s not in set(self.selected)]
        more = count - len(self.selected)
        if self.strategy == "random":
            order = np.random.default_rng(self.settings.seed).permutation(len(remaining))[:more].tolist()
        else:
            known = [a.label for seed in self.selected for a in draw_corrected_image(seed).annotations]
            order = select_next(self._predict(remaining), more, known)
        self.selected += [remaining[i] for i in order]

    def _predict(self, seeds: Sequence[int]) -> list[list[Annotation]]:
        """Returns the champion's predictions for images of the pool."""
        with Engine.load(EngineConfig(self.settings.base)) as engine:
            name = engine.load_adapter("champion", self.champion.adapter).name if self.champion.adapter else None
            predictions: list[list[Annotation]] = []
            for start in range(0, len(seeds), 64):
                images = [draw_corrected_image(seed).open() for seed in seeds[start : start + 64]]
                handles = [engine.submit(Request(image, TASKS["<OD>"], adapter=name)) for image in images]
                predictions += [handle.wait().annotations for handle in handles]
            return predictions


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs. Called again, they continue.")] = ROOT
    / "runs"
    / "loop",
    rounds: Annotated[str, typer.Option(help="Corrected images after each round.")] = "20,60,240",
    steps: Annotated[str, typer.Option(help="Training steps of each round.")] = "200,380,380",
    strategies: Annotated[str, typer.Option(help="Strategies to select images.")] = ",".join(STRATEGIES),
    pool: Annotated[int, typer.Option(help="Images to select from.")] = 480,
    backtest: Annotated[int, typer.Option(help="Holdout images that decide about promotion.")] = 150,
    test: Annotated[int, typer.Option(help="Images for the figures.")] = 300,
    docs: Annotated[Path, typer.Option(help="Folder for the figures.")] = ROOT / "docs" / "measurements",
) -> None:
    """Runs the loop with each strategy and writes loop.json, loop.md and loop.png."""
    settings = TuneConfig(**SETTINGS, views_per_image=VIEWS)
    counts, lengths = ([int(n) for n in text.split(",")] for text in (rounds, steps))
    images = {"pool": pool, "backtest": backtest, "test": test}
    loops = {s: LabelingLoop(out, s, settings, images).run(counts, lengths) for s in strategies.split(",")}
    results = {
        "machine": describe_machine(), "settings": settings.model_dump(mode="json"), "images": images, "loops": loops,
    }  # fmt: skip
    labeling_loop_page.write_results(docs, results)
    console.print(labeling_loop_page.format_table(loops))


if __name__ == "__main__":
    typer.run(main)
