"""The vision tower alone: transformers' against ours, same weights, pictures and type, in turns in one run.

`python -m benchmarks.vision_encoder`. transformers runs with sdpa and with eager attention, and its faster one is the baseline.
The floor is the time that the tower's matrix products alone take here, on blocks that lie ready. What is timed is the
process's CPU time, so that a busy machine blurs it less; with several threads it is the sum of theirs.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor
from transformers import Florence2Config, Florence2ForConditionalGeneration

from benchmarks.matrix_products import products
from benchmarks.results import Row, show
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.model.vision_encoder import VisionEncoder

SIDES = {"base": 768, "seedling": 256}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def network(shape: str, dtype: torch.dtype) -> Florence2ForConditionalGeneration:
    """Random weights of the published base shape under a BART of no layers, or the seedling."""
    if shape == "seedling":
        return Florence2ForConditionalGeneration.from_pretrained(locate_checkpoint("seedling"), dtype=dtype).eval()
    words = {"model_type": "bart", "vocab_size": 8, "d_model": 768, "encoder_layers": 0, "decoder_layers": 0}
    config = Florence2Config(text_config=words, vision_config={"projection_dim": 768}, image_token_id=4)
    torch.manual_seed(0)
    return Florence2ForConditionalGeneration(config).to(dtype).eval()


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(shape: str, dtype: str, pictures: int, rounds: int) -> list[Row]:
    """CPU milliseconds a picture."""
    kind = TYPES[dtype]
    model, side = network(shape, kind), SIDES[shape]
    tower = VisionEncoder(model.config)
    tower.load_weights(model.state_dict())
    pixels = torch.randn(pictures, 3, side, side).to(kind)

    def transformers(attention: str) -> Tensor:
        model.set_attn_implementation({"vision_config": attention, "text_config": "eager"})
        return model.model.get_image_features(pixels).pooler_output

    sides: dict[str, Callable[[], Tensor]] = {
        "transformers, sdpa": lambda: transformers("sdpa"),
        "transformers, eager": lambda: transformers("eager"),
        "florist": lambda: tower(pixels),
    }
    features = {name: run().float() for name, run in sides.items()}  # and a warm-up
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            times[name].append(seconds(run) / pictures)
    best = {name: min(values) for name, values in times.items()}
    least = 0.0
    for product in products(model.config.vision_config, side, kind):
        run = product.ready()
        run()
        least += product.count * min(seconds(run) for _ in range(rounds))
    counted = min(best[name] for name in best if name != "florist")
    theirs, ours = features["transformers, sdpa"], features["florist"]
    off = (theirs - ours).abs().max() / theirs.abs().max()
    notes = {"florist": f"features differ by {off:.0e} of the largest at most"}
    work = f"{shape}, {side} px, {dtype}"
    rows = [
        Row(work, name, took * 1e3, "ms CPU a picture", counted / took, least / took, notes.get(name, ""))
        for name, took in best.items()
    ]
    return [*rows, Row(work, "matrix products alone", least * 1e3, "ms CPU a picture", counted / least, 1.0)]


@torch.inference_mode()
def main(
    shape: Annotated[Literal["base", "seedling"], typer.Option(help="The tower's shape.")] = "base",
    dtype: Annotated[list[str], typer.Option(help="Types of weights and pictures.")] = ["bfloat16", "float32"],  # noqa: B006
    pictures: Annotated[int, typer.Option(min=1, help="Pictures a pass.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each side, in turns; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="For all sides.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints CPU milliseconds a picture of both sides, their ratio, and the share of the floor that each reaches."""
    torch.set_num_threads(threads)
    rows = [row for kind in dtype for row in measure(shape, kind, pictures, rounds)]
    show(f"The vision tower alone, {threads} threads, fastest of {rounds}", rows, out)


if __name__ == "__main__":
    typer.run(main)
