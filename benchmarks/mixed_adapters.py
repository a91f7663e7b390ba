"""Several LoRA adapters in one batch on the seedling, against one adapter, none, and PEFT switching between adapters.

`python -m benchmarks.mixed_adapters`. The adapters have random weights (rank 8, attention and feed-forward of BART), so
answers differ in length: times are compared per generated token, including the prompts. Every image is new.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import Florence2ForConditionalGeneration

from benchmarks.machine import run_in_thread, time_call
from benchmarks.results import Measurement, report_measurements
from benchmarks.transformers_baseline import TransformersBaseline
from benchmarks.workloads import get_image, make_new_image_requests, run_concurrently
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

TARGETS = r"model\.language_model\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
WEIGHT_STD = 0.01  # large enough to change answers, small enough to keep them valid


def save_random_adapter(folder: Path, checkpoint: Checkpoint, seed: int) -> Path:
    """Writes an adapter in PEFT's format."""
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration.from_pretrained(checkpoint.folder)
    peft_model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    with torch.no_grad():
        for name, value in peft_model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=WEIGHT_STD)
    peft_model.save_pretrained(str(folder))
    return folder


def generate_switching(baseline: TransformersBaseline, requests: Sequence[Request]) -> list[list[int]]:
    """Answers one request at a time and switches when the adapter changes."""
    answers: list[list[int]] = []
    active = None
    for request in requests:
        if request.adapter != active:
            baseline.model.set_adapter(request.adapter)
            active = request.adapter
        answers += baseline.generate([request])
    return answers


def generate_sorted(baseline: TransformersBaseline, requests: Sequence[Request], batch: int) -> list[list[int]]:
    """Answers in padded batches of one adapter each, sorted by adapter."""
    order = sorted(range(len(requests)), key=lambda i: str(requests[i].adapter))
    answers: dict[int, list[int]] = {}
    for adapter, group in itertools.groupby(order, key=lambda i: requests[i].adapter):
        baseline.model.set_adapter(adapter)
        positions = list(group)
        answers |= zip(positions, baseline.generate_batches([requests[i] for i in positions], batch), strict=True)
    return [answers[i] for i in range(len(requests))]


def main(
    count: Annotated[int, typer.Option(min=8, help="Requests.")] = 128,
    adapters: Annotated[int, typer.Option(min=2, help="Adapters.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Also write the measurements to this file, as JSON.")] = None,
) -> None:
    """Prints milliseconds per token of all systems."""
    checkpoint = run_in_thread(lambda: load_checkpoint(SEEDLING))
    plain = make_new_image_requests(count)
    names = [f"project-{i}" for i in range(adapters)]
    mixed = [replace(request, adapter=names[i % adapters]) for i, request in enumerate(plain)]
    single = [replace(request, adapter=names[0]) for request in plain]
    with tempfile.TemporaryDirectory() as root:
        folders = {name: save_random_adapter(Path(root) / name, checkpoint, seed) for seed, name in enumerate(names)}
        paths = {name: str(folder) for name, folder in folders.items()}
        baseline = TransformersBaseline(checkpoint, torch.float32, paths)
        run_in_thread(lambda: baseline.select_attention([get_image(plain[0])]))
        run_in_thread(lambda: generate_switching(baseline, mixed[:8]))
        results = {"PEFT, one at a time, switching": time_call(lambda: generate_switching(baseline, mixed))}
        name = "PEFT, sorted by adapter, batches of 16"
        results[name] = time_call(lambda: generate_sorted(baseline, mixed, 16))
        with Engine(checkpoint, EngineConfig(max_waiting=count, feature_cache_bytes=0)) as engine:
            for name, folder in folders.items():
                engine.load_adapter(name, folder)
            warmup = make_new_image_requests(16, first=9000)
            run_concurrently(engine, [replace(r, adapter=names[i % adapters]) for i, r in enumerate(warmup)])
            cases = (("no adapter", plain), ("one adapter", single), (f"{adapters} adapters mixed", mixed))
            for case, requests in cases:
                results[f"florist, {case}"] = time_call(partial(run_concurrently, engine, requests))
    ms = {name: seconds * 1e3 / sum(map(len, answers)) for name, (seconds, answers) in results.items()}
    first, last = (list(results)[i] for i in (0, -1))
    same = sum(a == b for a, b in zip(results[first][1], results[last][1], strict=True))
    workload = f"seedling, fp32, greedy, {count} requests, {adapters} adapters"
    notes = {last: f"same tokens as PEFT in {same} of {count}"}
    measurements = [
        Measurement(workload, name, value, "ms/token", ms[first] / value, None, notes.get(name, ""))
        for name, value in ms.items()
    ]
    report_measurements("Several adapters in one batch", measurements, out)


if __name__ == "__main__":
    typer.run(main)
