"""The vision tower exported to OpenVINO, against florist's: base's shape, the same random weights and picture.

`python -m benchmarks.openvino_export` (`pip install openvino`). The export is transformers' tower and projector, traced and
compiled for this CPU; in bf16 OpenVINO is given the same weights in fp32 and told to compute in bf16. All sides run in
turns and on the same number of threads; what is timed is the process's CPU time, as in `benchmarks.vision_encoder`.
"""

import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from transformers import Florence2ForConditionalGeneration

from benchmarks.results import Row, show
from benchmarks.vision_encoder import SIDES, TYPES, network, seconds
from server.engine.model.vision_encoder import VisionEncoder


class Looks(nn.Module):
    """transformers' tower and projector alone: pixels → image features."""

    def __init__(self, model: Florence2ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.get_image_features(pixels).pooler_output


def openvino(
    model: Florence2ForConditionalGeneration, pixels: Tensor, dtype: str, threads: int
) -> tuple[float, Callable[[], Tensor]]:
    """Seconds that exporting and compiling took, and the compiled tower."""
    import openvino as ov

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what tracing fixes: the size of the picture, which is fixed anyway
        exported = ov.convert_model(Looks(model), example_input=pixels, input=[list(pixels.shape)])
    precision = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}[dtype]
    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(exported, "CPU", hints)
    took = time.perf_counter() - start
    return took, lambda: torch.from_numpy(compiled(pixels.numpy())[0])


@torch.inference_mode()
def measure(shape: str, dtype: str, rounds: int, threads: int) -> list[Row]:
    """CPU milliseconds a picture."""
    kind, side = TYPES[dtype], SIDES[shape]
    model = network(shape, torch.float32)
    model.set_attn_implementation({"vision_config": "sdpa", "text_config": "eager"})
    pixels = torch.randn(1, 3, side, side)
    took, exported = openvino(model, pixels, dtype, threads)
    tower = VisionEncoder(model.config)
    tower.load_weights({name: value.to(kind) for name, value in model.state_dict().items()})
    sides: dict[str, Callable[[], Tensor]] = {"OpenVINO": exported, "florist": lambda: tower(pixels.to(kind))}
    exact = Looks(model)(pixels)
    off = {name: ((run().float() - exact).abs().max() / exact.abs().max()).item() for name, run in sides.items()}
    best = {name: min(seconds(run) for _ in range(rounds)) for name, run in sides.items()}
    work = f"{shape}, {side} px, {dtype}"
    notes = {name: f"off by {value:.0e} of the largest feature of fp32" for name, value in off.items()}
    notes["OpenVINO"] += f"; {took:.0f} s to export and compile"
    first = best["OpenVINO"]
    return [Row(work, n, t * 1e3, "ms CPU a picture", first / t, None, notes[n]) for n, t in best.items()]


def main(
    dtype: Annotated[list[str], typer.Option(help="Types to compute in.")] = ["bfloat16", "float32"],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each side; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="For all sides.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints CPU milliseconds a picture of both sides."""
    if not find_spec("openvino"):
        raise typer.BadParameter("OpenVINO is not installed; pip install openvino, or make bench, which does")
    torch.set_num_threads(threads)
    rows = [row for kind in dtype for row in measure("base", kind, rounds, threads)]
    show("The vision tower exported", rows, out)


if __name__ == "__main__":
    typer.run(main)
