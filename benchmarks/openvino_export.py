"""The vision encoder exported to OpenVINO, against florist's: base's architecture, the same random weights and image.

`python -m benchmarks.openvino_export` (`pip install openvino`). The export is transformers' vision encoder and
projector, traced and compiled for this CPU. For bf16, OpenVINO gets the weights in fp32 and a hint to compute in bf16.
The systems alternate and use the same number of threads. Times are CPU times, as in `benchmarks.vision_encoder`.
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

from benchmarks.base_checkpoint import DTYPES
from benchmarks.machine import measure_cpu_seconds
from benchmarks.results import Measurement, report_measurements
from benchmarks.vision_encoder import IMAGE_SIDES, load_model
from server.engine.model.vision_encoder import VisionEncoder


class ImageFeatures(nn.Module):
    """transformers' vision encoder and projector alone: maps pixels to image features."""

    def __init__(self, model: Florence2ForConditionalGeneration) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.get_image_features(pixels).pooler_output


def export_to_openvino(
    model: Florence2ForConditionalGeneration, pixels: Tensor, dtype_name: str, threads: int
) -> tuple[float, Callable[[], Tensor]]:
    """Returns the seconds to export and compile, and a function that runs the compiled encoder."""
    import openvino as ov

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing fixes the size of the image, as intended
        exported = ov.convert_model(ImageFeatures(model), example_input=pixels, input=[list(pixels.shape)])
    precision = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}[dtype_name]
    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(exported, "CPU", hints)
    seconds = time.perf_counter() - start
    return seconds, lambda: torch.from_numpy(compiled(pixels.numpy())[0])


@torch.inference_mode()
def compare(model_name: str, dtype_name: str, rounds: int, threads: int) -> list[Measurement]:
    """Measures CPU milliseconds per image."""
    dtype, side = DTYPES[dtype_name], IMAGE_SIDES[model_name]
    model = load_model(model_name, torch.float32)
    model.set_attn_implementation({"vision_config": "sdpa", "text_config": "eager"})
    pixels = torch.randn(1, 3, side, side)
    seconds, run_exported = export_to_openvino(model, pixels, dtype_name, threads)
    encoder = VisionEncoder(model.config)
    encoder.load_weights({name: value.to(dtype) for name, value in model.state_dict().items()})
    systems: dict[str, Callable[[], Tensor]] = {
        "OpenVINO": run_exported,
        "florist": lambda: encoder(pixels.to(dtype)),
    }
    exact = ImageFeatures(model)(pixels)
    errors = {name: ((run().float() - exact).abs().max() / exact.abs().max()).item() for name, run in systems.items()}
    best = {name: min(measure_cpu_seconds(run) for _ in range(rounds)) for name, run in systems.items()}
    notes = {name: f"error {value:.0e} of the largest fp32 feature" for name, value in errors.items()}
    notes["OpenVINO"] += f"; {seconds:.0f} s to export and compile"
    workload, first = f"{model_name}, {side} px, {dtype_name}", best["OpenVINO"]
    return [
        Measurement(workload, name, value * 1e3, "ms CPU/image", first / value, None, notes[name])
        for name, value in best.items()
    ]


def main(
    dtype: Annotated[list[str], typer.Option(help="Types to compute in.")] = ["bfloat16", "float32"],  # noqa: B006
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each system; the fastest counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of all systems.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints CPU milliseconds per image of both systems."""
    if not find_spec("openvino"):
        raise typer.BadParameter("OpenVINO is not installed: pip install openvino, or use make bench")
    torch.set_num_threads(threads)
    measurements = [one for dtype_name in dtype for one in compare("base", dtype_name, rounds, threads)]
    report_measurements("The vision encoder exported to OpenVINO", measurements, out)


if __name__ == "__main__":
    typer.run(main)
