"""Prompts a second: transformers one at a time against the engine, same weights, dtype and work, in one run.

`python -m benchmarks.prompts` (`make bench`). Each side answers the same prompts on the same unseen scenes, greedy,
after a warm-up; the answers' tokens are compared, so a faster wrong answer cannot win.
"""

import platform
import time
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from finetune.datasets.scenes import questions
from finetune.datasets.scenes.draw import draw
from prompts.tasks import BOS, EOS, IMAGE, TASKS
from server.engine.engine import Engine
from server.engine.request import Request

SEED = 50_000  # apart from the report's scenes and the demo's


def work(scenes: int) -> list[Request]:
    """Every task that a scene can be asked, for each of `scenes` scenes."""
    import numpy as np

    requests = []
    for seed in range(SEED, SEED + scenes):
        scene = draw(seed)
        rng = np.random.default_rng((seed, 3))
        asked = [q for token in TASKS if (q := questions.ask(scene, token, rng))]
        requests += [Request(scene.image, q.task, q.text, q.region, max_new_tokens=128, num_beams=1) for q in asked]
    return requests


def processor(model: str):  # type: ignore[no-untyped-def]
    """transformers' own processor of a checkpoint name."""
    from transformers import AutoProcessor

    from server.engine.checkpoint import locate

    return AutoProcessor.from_pretrained(locate(model))


@torch.inference_mode()
def transformers_alone(engine: Engine, model: str, requests: list[Request]) -> list[list[int]]:
    """Each prompt through the hub's processor and `generate`, one after the other: what a plain script does."""
    asked = processor(model)
    network = engine.checkpoint.model
    answers = []
    for request in requests:
        prompt = request.task.prompt(request.text, request.region, request.image.size)
        inputs = asked(images=request.image, text="", return_tensors="pt")
        image = IMAGE * int((inputs["input_ids"] == network.config.image_token_id).sum())
        words = asked.tokenizer(image + BOS + prompt + EOS, add_special_tokens=False, return_tensors="pt")
        tokens = network.generate(
            **words,
            pixel_values=inputs["pixel_values"].to(network.dtype),
            max_new_tokens=request.max_new_tokens,
            num_beams=1,
        )
        answers.append(tokens[0, 1:].tolist())
    return answers


def engine_together(engine: Engine, requests: list[Request]) -> list[list[int]]:
    """All prompts submitted at once."""
    handles = [engine.submit(request) for request in requests]
    return [handle.wait().tokens for handle in handles]


def main(
    model: Annotated[str, typer.Option(help="Checkpoint.")] = "seedling",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes, each asked every task.")] = 12,
) -> None:
    """Prints prompts a second of both sides and their ratio."""
    requests = work(scenes)
    table = Table(title=f"{model}, fp32, greedy: {len(requests)} prompts on {scenes} scenes")
    for column in ("side", "seconds", "prompts/s", "ratio"):
        table.add_column(column, justify="right")
    engine = Engine.load(model, dtype="float32", max_waiting=len(requests) + 1)
    try:
        sides = {
            "transformers, one at a time": lambda part: transformers_alone(engine, model, part),
            "florist engine": lambda part: engine_together(engine, part),
        }
        first, answers = 0.0, []
        for name, side in sides.items():
            side(requests[:15])
            start = time.perf_counter()
            answers.append(side(requests))
            seconds = time.perf_counter() - start
            first = first or seconds
            table.add_row(name, f"{seconds:.2f}", f"{len(requests) / seconds:.1f}", f"{first / seconds:.2f}×")
    finally:
        engine.close()
    alike = sum(a == b for a, b in zip(*answers, strict=True))
    console = Console(width=100)
    console.print(table)
    console.print(f"same tokens: {alike} of {len(requests)}")
    console.print(f"machine: {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    typer.run(main)
