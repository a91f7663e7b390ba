"""LoRA adapters on the seedling: several in one batch against one, none, and PEFT switching between them.

`python -m benchmarks.mixed_adapters`. The adapters are trained by chance (rank 8, attention and feed-forward of
BART), so answers differ in length: what is compared is the time a token of the whole work takes, prompts read included.
Every picture is new to the engine.
"""

import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from peft import LoraConfig, get_peft_model
from transformers import Florence2ForConditionalGeneration

from benchmarks.machine import apart, timed
from benchmarks.results import Row, show
from benchmarks.transformers_baseline import Transformers
from benchmarks.workloads import new_pictures, together
from server.engine.checkpoints.loading import Checkpoint, load_checkpoint
from server.engine.checkpoints.sources import SEEDLING
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Request

TARGETS = r"model\.language_model\..*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
SPREAD = 0.01  # of what chance trained; answers then differ and stay answers


def save(folder: Path, checkpoint: Checkpoint, seed: int) -> Path:
    """An adapter as PEFT saves it."""
    torch.manual_seed(seed)
    plain = Florence2ForConditionalGeneration.from_pretrained(checkpoint.folder)
    network = get_peft_model(plain, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    with torch.no_grad():
        for name, value in network.named_parameters():
            if "lora_B" in name:
                value.normal_(std=SPREAD)
    network.save_pretrained(str(folder))
    return folder


def in_turn(theirs: Transformers, requests: Sequence[Request]) -> list[list[int]]:
    """One at a time, switching where the adapter changes."""
    answers: list[list[int]] = []
    active = None
    for request in requests:
        if request.adapter != active:
            theirs.network.set_adapter(request.adapter)
            active = request.adapter
        answers += theirs.answer([request])
    return answers


def grouped(theirs: Transformers, requests: Sequence[Request], batch: int) -> list[list[int]]:
    """Sorted by adapter, in padded batches of one adapter each."""
    order = sorted(range(len(requests)), key=lambda i: str(requests[i].adapter))
    answers: dict[int, list[int]] = {}
    for adapter, places in itertools.groupby(order, key=lambda i: requests[i].adapter):
        theirs.network.set_adapter(adapter)
        own = list(places)
        answers |= zip(own, theirs.batched([requests[i] for i in own], batch), strict=True)
    return [answers[i] for i in range(len(requests))]


def main(
    count: Annotated[int, typer.Option(min=8, help="Requests.")] = 128,
    adapters: Annotated[int, typer.Option(min=2, help="Adapters.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints milliseconds a token of all sides."""
    checkpoint = apart(lambda: load_checkpoint(SEEDLING))
    plain = new_pictures(count)
    names = [f"project-{i}" for i in range(adapters)]
    mixed = [replace(request, adapter=names[i % adapters]) for i, request in enumerate(plain)]
    one = [replace(request, adapter=names[0]) for request in plain]
    with tempfile.TemporaryDirectory() as root:
        folders = {name: save(Path(root) / name, checkpoint, seed) for seed, name in enumerate(names)}
        theirs = Transformers(checkpoint, torch.float32, {name: str(folder) for name, folder in folders.items()})
        apart(lambda: theirs.tune([plain[0].image]))
        apart(lambda: in_turn(theirs, mixed[:8]))
        found = {"PEFT, one at a time, switching": timed(lambda: in_turn(theirs, mixed))}
        found["PEFT, sorted by adapter, batches of 16"] = timed(lambda: grouped(theirs, mixed, 16))
        with Engine(checkpoint, EngineConfig(max_waiting=count, feature_cache_bytes=0)) as engine:
            for name, folder in folders.items():
                engine.load_adapter(name, folder)
            warm = new_pictures(16, first=9000)
            together(engine, [replace(r, adapter=names[i % adapters]) for i, r in enumerate(warm)])
            for side, requests in (("no adapter", plain), ("one adapter", one), (f"{adapters} adapters mixed", mixed)):
                found[f"florist, {side}"] = timed(lambda requests=requests: together(engine, requests))
    each = {name: took * 1e3 / sum(map(len, answers)) for name, (took, answers) in found.items()}
    first, last = (list(found)[i] for i in (0, -1))
    alike = sum(a == b for a, b in zip(found[first][1], found[last][1], strict=True))
    work = f"seedling, fp32, greedy, {count} requests, {adapters} adapters"
    notes = {last: f"the same tokens as PEFT's in {alike} of {count}"}
    rows = [Row(work, name, ms, "ms a token", each[first] / ms, None, notes.get(name, "")) for name, ms in each.items()]
    show("Several adapters in one batch", rows, out)


if __name__ == "__main__":
    typer.run(main)
