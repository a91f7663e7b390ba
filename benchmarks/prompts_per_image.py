"""One picture, several prompts: the engine, cold and warm, against transformers, plain and sharing what it sees.

`python -m benchmarks.prompts_per_image`. Cold: no side has seen the picture. Warm: both have its features already; transformers
by `mm_encoder_outputs`, which a careful script keeps. A cold side is never held against a warm one. Greedy; the
seedling answers as long as it likes, base's shape (random weights) as long as it is told.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL.Image import Image

from benchmarks import base_checkpoint
from benchmarks.machine import apart, measure, timed
from benchmarks.results import Row, show
from benchmarks.roofline import Floor
from benchmarks.transformers_baseline import Transformers
from benchmarks.workloads import LONGEST, one_picture, scenes, together
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.engine.request import Request

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REFERENCE = "cold: transformers, one at a time"


class Comparison:
    """Both sides on one checkpoint in one type."""

    def __init__(self, model: str, dtype: str, limit: int, rounds: int) -> None:
        self.dtype, self.limit, self.rounds = dtype, limit, rounds
        self.name = "seedling" if model == SEEDLING else "base"
        kind = TYPES[dtype]
        self.checkpoint = apart(lambda: load_checkpoint(model, dtype=kind))
        self.theirs = Transformers(self.checkpoint, kind)
        self._fresh = iter(range(10_000))
        apart(lambda: self.theirs.tune([self.picture()]))
        side = self.checkpoint.preprocessor.height
        tokens = self.checkpoint.image_tokens + 13
        self.floor = Floor.of(self.checkpoint.model.config, side, tokens, kind, measure(kind))

    def picture(self) -> Image:
        """One that nobody has seen."""
        return scenes(1, next(self._fresh))[0].image

    def rows(self, prompts: int) -> list[Row]:
        """Milliseconds a prompt of all sides, `prompts` asked of one picture: the best of several rounds, each on a
        picture of its own."""
        rounds = [self._round(one_picture(self.picture(), prompts, limit=self.limit)) for _ in range(self.rounds)]
        best = {name: min(one[name][0] for one in rounds) for name in rounds[0]}
        lengths = [len(tokens) for tokens in rounds[-1]["cold: florist"][1]]
        rows = []
        for name, took in best.items():
            temperature = name.split(":")[0]
            least = self.floor.seconds(int(temperature == "cold"), lengths)
            ratio, note = best[f"{temperature}: transformers, one at a time"] / took, ""
            if name.endswith("florist"):
                pairs = [p for one in rounds for p in zip(one[name][1], one[REFERENCE][1], strict=True)]
                note = f"the same tokens in {sum(a == b for a, b in pairs)} of {len(pairs)}"
            work = f"{self.name}, {self.dtype}, {prompts} prompts"
            rows.append(Row(work, name, took * 1e3 / prompts, "ms a prompt", ratio, least / took, note))
        return rows

    def _round(self, requests: list[Request]) -> dict[str, tuple[float, list[list[int]]]]:
        """Seconds and answers of each side."""
        theirs, prompts = self.theirs, len(requests)
        features = apart(lambda: theirs.look([requests[0].image]))
        found = {
            REFERENCE: timed(lambda: theirs.one_at_a_time(requests)),
            "cold: transformers, one at a time, sharing the picture": timed(
                lambda: theirs.one_at_a_time_sharing(requests)
            ),
            "cold: transformers, one batch, sharing the picture": timed(
                lambda: theirs.batched(requests, prompts, share=True)
            ),
        }
        with Engine(self.checkpoint) as engine:
            together(engine, one_picture(self.picture(), 1, limit=3))
            found["cold: florist"] = timed(lambda: together(engine, requests))
            warm = timed(lambda: together(engine, requests))
        found |= {
            "warm: transformers, one at a time": timed(lambda: [theirs.answer([r], features)[0] for r in requests]),
            "warm: transformers, one batch": timed(lambda: theirs.answer(requests, features.expand(prompts, -1, -1))),
            "warm: florist": warm,
        }
        return found


def main(
    model: Annotated[list[str], typer.Option(help="seedling, base or both.")] = ["seedling", "base"],  # noqa: B006
    dtype: Annotated[list[str], typer.Option(help="Types for base; the seedling runs in fp32.")] = ["bfloat16"],  # noqa: B006
    prompts: Annotated[list[int], typer.Option(help="Prompts a picture.")] = [1, 4, 8, 16],  # noqa: B006
    limit: Annotated[int, typer.Option(min=1, help="Tokens of an answer of base's.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints milliseconds a prompt of all sides, their ratio, and the share of the floor that each reaches."""
    rows: list[Row] = []
    if "seedling" in model:
        small = Comparison(SEEDLING, "float32", LONGEST, rounds=6)
        rows += [row for count in prompts for row in small.rows(count)]
    if "base" in model:
        with tempfile.TemporaryDirectory() as folder:
            base_checkpoint.save(Path(folder))
            for kind in dtype:
                large = Comparison(folder, kind, limit, rounds=1)
                rows += [row for count in prompts for row in large.rows(count)]
    show("One picture, several prompts, greedy", rows, out)


if __name__ == "__main__":
    typer.run(main)
