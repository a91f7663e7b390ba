"""The labeling loop, measured: `python -m benchmarks.labeling_loop` (`make loop`).

A project of pictures in a style that the seedling never saw (the emoji set kept out of its training). Round by round:
the champion labels the pool; a person (the drawn truth) corrects the pictures that are chosen; a LoRA adapter is
tuned on all that is corrected, from the champion on; a backtest on held-out pictures decides whether it is promoted.
Figures are of test pictures that neither tuning nor backtest sees. A stopped loop goes on when it is called again.
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
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.machine import description
from finetune.active_learning import select
from finetune.evaluation import bootstrap
from finetune.evaluation.corrections import Tally
from finetune.forgetting import price, probe
from finetune.tuning import replay
from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import tune
from finetune.tuning.validation import Judge
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Annotation, Box
from prompts.tasks import TASKS
from seedling.scenes.drawing import draw_scene
from seedling.scenes.glyphs import CATEGORIES, HOLDOUT_SET
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.checkpoints.weights import hash_weights
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

ROOT = Path(__file__).parents[1]
POOL, BACKTEST, TEST = 200_000, 210_000, 220_000  # first seeds; the report's are below, training's above
CHOICES = ("doubt", "random")
console = Console(width=140)


@cache
def picture(seed: int) -> Image.Image:
    """A scene of the style that the seedling never saw."""
    return _scene(seed).image


def _scene(seed: int) -> Any:
    return draw_scene(seed, sets=(HOLDOUT_SET,), objects=(1, 4), words=(0, 2))


def corrected(seed: int) -> LabeledImage:
    """The picture as a person leaves it: every object boxed and named."""
    scene = _scene(seed)
    boxes = tuple(Box(label=thing.category, box=thing.box) for thing in scene.objects)
    (width, height), whole = scene.image.size, frozenset({LabelKind.OBJECTS})
    return LabeledImage(f"{seed}.png", "drawn", width, height, boxes, lambda: picture(seed), whole)


def corrected_many(first: int, count: int) -> list[LabeledImage]:
    """Pictures of consecutive seeds."""
    return [corrected(first + i) for i in range(count)]


@dataclass
class Champion:
    """What labels the project now; `adapter` None: the base."""

    adapter: Path | None = None
    round: int = 0


class Loop:
    """One way of choosing, from round to round. The `views` of `settings` are shared out among a round's pictures."""

    def __init__(self, out: Path, choice: str, settings: TuneConfig, pictures: dict[str, int]) -> None:
        self.out, self.choice, self.settings, self.pictures = out / choice, choice, settings, pictures
        tasks = ("<OD>",)
        self.backtest = Judge(corrected_many(BACKTEST, pictures["backtest"]), CATEGORIES, tasks)
        self.test = Judge(corrected_many(TEST, pictures["test"]), CATEGORIES, tasks)
        self.chosen: list[int] = []
        self.champion = Champion()
        self.rows: list[dict[str, Any]] = []
        self.before: dict[str, float] = {}

    def run(self, rounds: Sequence[int], steps: Sequence[int]) -> list[dict[str, Any]]:
        """All rounds; those that are kept from before are not run again."""
        self.out.mkdir(parents=True, exist_ok=True)
        kept = self.out / "rows.json"
        of = hash_weights(locate_checkpoint(self.settings.base))
        about = {"base": of, "settings": self.settings.model_dump(mode="json"), "pictures": self.pictures}
        before = json.loads(kept.read_text()) if kept.exists() else {**about, "rows": []}
        done = before.pop("rows")
        if before != about:
            what = f"{kept} is of other weights, settings or pictures; name another folder"
            raise typer.BadParameter(what, param_hint="--out")
        for number, (count, length) in enumerate(zip((0, *rounds), (0, *steps), strict=True)):
            if number < len(done):
                if (done[number]["corrected"], done[number]["steps"]) != (count, length):
                    raise typer.BadParameter(f"{kept} is of other rounds; name another folder", param_hint="--out")
                self._take(done[number])
                continue
            began = time.monotonic()
            row = self._round(number, count, length) if number else self._start()
            seconds = time.monotonic() - began + row.pop("earlier", 0.0)
            self.rows.append({**row, "steps": length, "seconds": round(seconds, 1)})
            kept.write_text(json.dumps({**about, "rows": self.rows}, indent=1))
            console.print({k: v for k, v in self.rows[-1].items() if k not in ("chosen", "probe")})
        return self.rows

    def _take(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.chosen = list(row["chosen"])
        self.before = self.before or row["probe"]
        if row["promoted"]:
            self.champion = Champion(self.out / f"round-{row['round']}" / "adapter", row["round"])

    def _start(self) -> dict[str, Any]:
        with Engine.load(EngineConfig(self.settings.base)) as engine:
            self.before = probe(engine)
            return self._row(0, sum(self.test.tallies(engine), Tally()), self.before, promoted=False)

    def _round(self, number: int, count: int, steps: int) -> dict[str, Any]:
        self._choose(count)
        folder = self.out / f"round-{number}"
        start = str(self.champion.adapter) if self.champion.adapter else ""
        views = max(1, self.settings.views // count)
        settings = self.settings.model_copy(update={"steps": steps, "start": start, "views": views})
        began = time.monotonic()
        outcome = tune(
            settings, [corrected(seed) for seed in self.chosen], folder, labels=CATEGORIES, replay=replay.scenes,
            told=lambda line: console.print(f"  {self.choice} {count}: step {line['step']}/{steps}"),
        )  # fmt: skip
        earlier = max(0.0, outcome.seconds - (time.monotonic() - began))  # of a tune that was stopped and went on
        with Engine.load(EngineConfig(settings.base)) as engine:
            engine.load_adapter("challenger", outcome.folder)
            if self.champion.adapter:
                engine.load_adapter("champion", self.champion.adapter)
            old = self.backtest.tallies(engine, "champion" if self.champion.adapter else None)
            difference = bootstrap.corrections(old, self.backtest.tallies(engine, "challenger"))
            if promoted := difference.high < 0:
                self.champion = Champion(outcome.folder, number)
            name = "challenger" if promoted else "champion" if self.champion.adapter else None
            known, before_test = probe(engine, name), time.monotonic()
            total = sum(self.test.tallies(engine, name), Tally())
            earlier -= time.monotonic() - before_test  # nobody but this benchmark asks those
        row = self._row(count, total, known, promoted=promoted)
        return {
            **row, "round": number, "tuning_seconds": round(outcome.seconds, 1), "earlier": earlier,
            "backtest": round(difference.value, 1),
            "interval": [round(difference.low, 1), round(difference.high, 1)],
        }  # fmt: skip

    def _row(self, count: int, tally: Tally, known: dict[str, float], *, promoted: bool) -> dict[str, Any]:
        lost = price(self.before, known)
        return {
            "corrected": count, "per_hundred": round(tally.per_hundred, 1), "missed": tally.missed,
            "wrong_class": tally.wrong_class, "wrong_box": tally.wrong_box, "made_up": tally.made_up,
            "labels": tally.labels, "promoted": promoted, "lost": round(lost["mean"], 1), "probe": known,
            "chosen": list(self.chosen),
        }  # fmt: skip

    def _choose(self, count: int) -> None:
        """More pictures to correct, up to `count` in all."""
        rest = [seed for seed in range(POOL, POOL + self.pictures["pool"]) if seed not in set(self.chosen)]
        more = count - len(self.chosen)
        if self.choice == "random":
            order = np.random.default_rng(self.settings.seed).permutation(len(rest))[:more].tolist()
        else:
            known = [note.label for seed in self.chosen for note in corrected(seed).annotations]
            order = select(self._answers(rest), more, known)
        self.chosen += [rest[i] for i in order]

    def _answers(self, seeds: Sequence[int]) -> list[list[Annotation]]:
        """The champion's labels of the pool."""
        with Engine.load(EngineConfig(self.settings.base)) as engine:
            name = engine.load_adapter("champion", self.champion.adapter).name if self.champion.adapter else None
            answers: list[list[Annotation]] = []
            for start in range(0, len(seeds), 64):
                asked = [Request(picture(s), TASKS["<OD>"], adapter=name) for s in seeds[start : start + 64]]
                answers += [handle.wait().annotations for handle in [engine.submit(request) for request in asked]]
            return answers


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs; called again, it goes on.")] = ROOT / "runs" / "loop",
    rounds: Annotated[str, typer.Option(help="Corrected pictures after each round.")] = "20,60,240",
    steps: Annotated[str, typer.Option(help="Steps of each round's tune.")] = "200,380,380",
    choices: Annotated[str, typer.Option(help="Ways of choosing.")] = ",".join(CHOICES),
    pool: Annotated[int, typer.Option(help="Pictures to choose from.")] = 480,
    backtest: Annotated[int, typer.Option(help="Held-out pictures that decide on promotion.")] = 150,
    test: Annotated[int, typer.Option(help="Pictures that the figures are of.")] = 300,
    docs: Annotated[Path, typer.Option(help="Where the figures go.")] = ROOT / "docs",
) -> None:
    """Runs the loop by each way of choosing; writes loop.json, loop.md and loop.png."""
    settings = TuneConfig(**SETTINGS, views=VIEWS)
    counts, lengths = ([int(n) for n in text.split(",")] for text in (rounds, steps))
    pictures = {"pool": pool, "backtest": backtest, "test": test}
    found = {c: Loop(out, c, settings, pictures).run(counts, lengths) for c in choices.split(",")}
    kept = {
        "machine": description(), "settings": settings.model_dump(mode="json"), "pictures": pictures, "loops": found,
    }  # fmt: skip
    (docs / "loop.json").write_text(json.dumps(kept, indent=1) + "\n")
    (docs / "loop.md").write_text(page(kept))
    plot(found, docs / "loop.png")
    console.print(table(found))


SETTINGS: dict[str, Any] = {
    "tasks": ("<OD>",), "rate": 3e-3, "replay": 0.3, "augment": 0.5, "hue": 0.5, "pictures": 8, "prompts": 4,
    "frozen_stages": 2, "location": 0.4,
}  # fmt: skip
"""A project's picture is asked what it shows and where, a replayed one up to `prompts` questions. Places are right
before any tuning, so they weigh less than names. Tries stand in `docs/loop-tries.md`."""
VIEWS = 960
"""Changed versions of all of a round's pictures: what the frozen stages say of each is computed once."""


def table(found: dict[str, list[dict[str, Any]]]) -> Table:
    """The figures on the terminal."""
    shown = Table(title="corrections per 100 labels")
    for column in ("choice", "corrected", "corrections per 100", "promoted", "points lost elsewhere", "minutes"):
        shown.add_column(column, justify="right")
    for choice, rows in found.items():
        for row in rows:
            shown.add_row(choice, *_cells(row))
    return shown


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    interval = f" ({row['interval'][0]:+.0f} … {row['interval'][1]:+.0f})" if "interval" in row else ""
    return (
        str(row["corrected"]), f"{row['per_hundred']:.1f}", ("yes" if row["promoted"] else "no") + interval,
        f"{row['lost']:.1f}", f"{row['seconds'] / 60:.1f}",
    )  # fmt: skip


def page(kept: dict[str, Any]) -> str:
    """The figures in Markdown."""
    choices = ",".join(kept["loops"])
    command = "make loop" if choices == ",".join(CHOICES) else f"python -m benchmarks.labeling_loop --choices {choices}"
    pictures = kept["pictures"]
    lines = [
        "# The labeling loop, measured", "",
        f"By `{command}`; {kept['machine']}. A pool of {pictures['pool']} pictures to choose from, "
        f"{pictures['backtest']} held out for backtests, {pictures['test']} others that the figures are of.", "",
        "![loop](loop.png)", "",
        "| choice | corrected pictures | corrections per 100 labels | promoted (backtest, 95 %) | points lost on the "
        "base's tasks | minutes to choose, tune and backtest, with the probe |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for choice, rows in kept["loops"].items():
        lines += [f"| {choice} | {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def plot(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Corrections per 100 labels over corrected pictures."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for choice, rows in found.items():
        axes.plot([r["corrected"] for r in rows], [r["per_hundred"] for r in rows], "o-", label=f"chosen by {choice}")
    first = next(iter(found.values()))[0]["per_hundred"]
    for share, name in ((1 / 3, "a third"), (1 / 6, "a sixth")):
        axes.axhline(first * share, color="#999", linestyle=":", linewidth=1)
        axes.annotate(name, (0, first * share), fontsize=8, color="#777", va="bottom")
    axes.set(xlabel="pictures corrected", ylabel="corrections per 100 labels", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    typer.run(main)
