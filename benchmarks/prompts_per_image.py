"""Several prompts for one image: florist against transformers, with and without cached image features.

`python -m benchmarks.prompts_per_image`. Cold: no system has seen the image. Warm: both have its features; transformers
takes them as `mm_encoder_outputs`. Cold systems are only compared with cold ones. Greedy decoding. The seedling ends
its answers itself; the base model with random weights generates a fixed number of tokens.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL.Image import Image

from benchmarks.base_checkpoint import DTYPES, save_base_checkpoint
from benchmarks.machine import measure_machine, run_in_thread, time_call
from benchmarks.results import Measurement, report_measurements
from benchmarks.roofline import Roofline
from benchmarks.transformers_baseline import TransformersBaseline
from benchmarks.workloads import MAX_ANSWER_TOKENS, draw_scenes, get_image, make_same_image_requests, run_concurrently
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.engine import Engine
from server.engine.request import Request

REFERENCE = "cold: transformers, one at a time"


class PromptsComparison:
    """All systems on one checkpoint, in one type."""

    def __init__(self, model: str, dtype_name: str, limit: int, rounds: int) -> None:
        self.dtype_name, self.limit, self.rounds = dtype_name, limit, rounds
        self.name = "seedling" if model == SEEDLING else "base"
        dtype = DTYPES[dtype_name]
        self.checkpoint = run_in_thread(lambda: load_checkpoint(model, dtype=dtype))
        self.baseline = TransformersBaseline(self.checkpoint, dtype)
        self._numbers = iter(range(10_000))
        run_in_thread(lambda: self.baseline.select_attention([self.draw_new_image()]))
        side = self.checkpoint.preprocessor.height
        tokens = self.checkpoint.image_tokens + 13
        config = self.checkpoint.model.config
        self.roofline = Roofline.from_config(config, side, tokens, dtype, measure_machine(dtype))

    def draw_new_image(self) -> Image:
        """Returns an image that no system has seen."""
        return draw_scenes(1, next(self._numbers))[0].image

    def measure(self, prompts: int) -> list[Measurement]:
        """Measures milliseconds per prompt with `prompts` for one image: the best of several rounds with new images."""
        rounds = [
            self._run_round(make_same_image_requests(self.draw_new_image(), prompts, limit=self.limit))
            for _ in range(self.rounds)
        ]
        best = {name: min(one[name][0] for one in rounds) for name in rounds[0]}
        lengths = [len(tokens) for tokens in rounds[-1]["cold: florist"][1]]
        measurements = []
        for name, seconds in best.items():
            temperature = name.split(":")[0]
            least = self.roofline.min_seconds(int(temperature == "cold"), lengths)
            speedup, note = best[f"{temperature}: transformers, one at a time"] / seconds, ""
            if name.endswith("florist"):
                pairs = [p for one in rounds for p in zip(one[name][1], one[REFERENCE][1], strict=True)]
                note = f"same tokens in {sum(a == b for a, b in pairs)} of {len(pairs)}"
            workload = f"{self.name}, {self.dtype_name}, {prompts} prompts"
            value = seconds * 1e3 / prompts
            measurements.append(Measurement(workload, name, value, "ms/prompt", speedup, least / seconds, note))
        return measurements

    def _run_round(self, requests: list[Request]) -> dict[str, tuple[float, list[list[int]]]]:
        """Returns seconds and answers of each system."""
        baseline, prompts = self.baseline, len(requests)
        features = run_in_thread(lambda: baseline.encode_images([get_image(requests[0])]))
        results = {
            REFERENCE: time_call(lambda: baseline.generate_one_by_one(requests)),
            "cold: transformers, one at a time, sharing features": time_call(
                lambda: baseline.generate_sharing_features(requests)
            ),
            "cold: transformers, one batch, sharing features": time_call(
                lambda: baseline.generate_batches(requests, prompts, share_features=True)
            ),
        }
        with Engine(self.checkpoint) as engine:
            run_concurrently(engine, make_same_image_requests(self.draw_new_image(), 1, limit=3))
            results["cold: florist"] = time_call(lambda: run_concurrently(engine, requests))
            warm = time_call(lambda: run_concurrently(engine, requests))
        results |= {
            "warm: transformers, one at a time": time_call(
                lambda: [baseline.generate([r], features)[0] for r in requests]
            ),
            "warm: transformers, one batch": time_call(
                lambda: baseline.generate(requests, features.expand(prompts, -1, -1))
            ),
            "warm: florist": warm,
        }
        return results


def main(
    model: Annotated[list[str], typer.Option(help="seedling, base or both.")] = ["seedling", "base"],  # noqa: B006
    dtype: Annotated[list[str], typer.Option(help="Types for base; the seedling runs in fp32.")] = ["bfloat16"],  # noqa: B006
    prompts: Annotated[list[int], typer.Option(help="Prompts per image.")] = [1, 4, 8, 16],  # noqa: B006
    limit: Annotated[int, typer.Option(min=1, help="Tokens of an answer of base.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints milliseconds per prompt of all systems, the speedups, and the shares of the roofline."""
    measurements: list[Measurement] = []
    if "seedling" in model:
        comparison = PromptsComparison(SEEDLING, "float32", MAX_ANSWER_TOKENS, rounds=6)
        measurements += [one for count in prompts for one in comparison.measure(count)]
    if "base" in model:
        with tempfile.TemporaryDirectory() as folder:
            save_base_checkpoint(Path(folder))
            for dtype_name in dtype:
                comparison = PromptsComparison(folder, dtype_name, limit, rounds=1)
                measurements += [one for count in prompts for one in comparison.measure(count)]
    report_measurements("Several prompts per image, greedy", measurements, out)


if __name__ == "__main__":
    typer.run(main)
