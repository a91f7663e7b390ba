"""The vision encoder alone: transformers against florist, with the same weights, images and type, in one run.

`python -m benchmarks.vision_encoder`. transformers runs with sdpa and with eager attention; the faster one is the
baseline. The roofline is the time of the encoder's matrix products alone on this machine, with prepared operands.
Times are the CPU time of the process, which a busy machine disturbs less; with several threads it is their sum.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from torch import Tensor
from transformers import Florence2Config, Florence2ForConditionalGeneration

from benchmarks.base_checkpoint import DTYPES
from benchmarks.machine import measure_cpu_seconds
from benchmarks.matrix_products import list_matrix_products
from benchmarks.results import Measurement, report_measurements
from server.engine.checkpoints.sources import locate_checkpoint
from server.engine.model.vision_encoder import VisionEncoder

IMAGE_SIDES = {"base": 768, "seedling": 256}


def load_model(name: str, dtype: torch.dtype) -> Florence2ForConditionalGeneration:
    """Returns the seedling, or base's vision encoder with random weights and a BART without layers."""
    if name == "seedling":
        return Florence2ForConditionalGeneration.from_pretrained(locate_checkpoint("seedling"), dtype=dtype).eval()
    text = {"model_type": "bart", "vocab_size": 8, "d_model": 768, "encoder_layers": 0, "decoder_layers": 0}
    config = Florence2Config(text_config=text, vision_config={"projection_dim": 768}, image_token_id=4)
    torch.manual_seed(0)
    return Florence2ForConditionalGeneration(config).to(dtype).eval()


def compare(model_name: str, dtype_name: str, images: int, rounds: int) -> list[Measurement]:
    """Measures CPU milliseconds per image."""
    dtype = DTYPES[dtype_name]
    model, side = load_model(model_name, dtype), IMAGE_SIDES[model_name]
    encoder = VisionEncoder(model.config)
    encoder.load_weights(model.state_dict())
    pixels = torch.randn(images, 3, side, side).to(dtype)

    def run_transformers(attention: str) -> Tensor:
        model.set_attn_implementation({"vision_config": attention, "text_config": "eager"})
        return model.model.get_image_features(pixels).pooler_output

    systems: dict[str, Callable[[], Tensor]] = {
        "transformers, sdpa": lambda: run_transformers("sdpa"),
        "transformers, eager": lambda: run_transformers("eager"),
        "florist": lambda: encoder(pixels),
    }
    features = {name: run().float() for name, run in systems.items()}  # also a warmup
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, run in systems.items():
            times[name].append(measure_cpu_seconds(run) / images)
    best = {name: min(values) for name, values in times.items()}
    least = 0.0
    for product in list_matrix_products(model.config.vision_config, side, dtype):
        compute = product.prepare()
        compute()
        least += product.count * min(measure_cpu_seconds(compute) for _ in range(rounds))
    baseline = min(best[name] for name in best if name != "florist")
    theirs, ours = features["transformers, sdpa"], features["florist"]
    difference = (theirs - ours).abs().max() / theirs.abs().max()
    notes = {"florist": f"features differ by at most {difference:.0e} of the largest"}
    workload, unit = f"{model_name}, {side} px, {dtype_name}", "ms CPU/image"
    measurements = [
        Measurement(workload, name, value * 1e3, unit, baseline / value, least / value, notes.get(name, ""))
        for name, value in best.items()
    ]
    return [*measurements, Measurement(workload, "matrix products alone", least * 1e3, unit, baseline / least, 1.0)]


@torch.inference_mode()
def main(
    model: Annotated[Literal["base", "seedling"], typer.Option(help="Model whose vision encoder runs.")] = "base",
    dtype: Annotated[list[str], typer.Option(help="Types of weights and images.")] = ["bfloat16", "float32"],  # noqa: B006
    images: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each system, alternating; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of all systems.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints CPU milliseconds per image of all systems, the speedups, and the shares of the roofline."""
    torch.set_num_threads(threads)
    measurements = [one for dtype_name in dtype for one in compare(model, dtype_name, images, rounds)]
    report_measurements(f"The vision encoder alone, {threads} threads, fastest of {rounds}", measurements, out)


if __name__ == "__main__":
    typer.run(main)
