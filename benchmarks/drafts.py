"""Prompt lookup for grounding: tokens a step, and what they are worth in time.

`python -m benchmarks.drafts`. The seedling grounds captions of unseen scenes, one request at a time and sixteen
together; the answers are the same at any number of drafts, or this fails. Base's shape with random weights repeats no
phrase, and so shows what drafts cost where none of them is right.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks import base
from benchmarks.machine import apart
from benchmarks.results import Row, show
from benchmarks.workloads import LONGEST, SEED, scenes
from seedling.scenes import questions
from server.engine import checkpoint as checkpoints
from server.engine.checkpoint import Checkpoint
from server.engine.engine import Engine
from server.engine.request import Request

GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"
PLAIN = 0  # no drafts: what the others are held against


def asked(count: int, limit: int) -> list[Request]:
    """Captions as the seedling was taught them: what is there, sometimes what is not, in any order."""
    found = []
    for i, scene in enumerate(scenes(count)):
        question = questions.ask(scene, GROUNDING, np.random.default_rng((SEED + i, 9)))
        if question:
            found.append(Request(scene.image, question.task, question.text, max_new_tokens=limit, num_beams=1))
    return found


def ground(
    checkpoint: Checkpoint, requests: Sequence[Request], drafts: int, together: int
) -> tuple[list[int], float, float]:
    """All tokens; tokens a running request says in a step; the decoder's milliseconds a token."""
    with Engine(checkpoint, drafts=drafts, max_waiting=len(requests)) as engine:
        tokens: list[int] = []
        for part in (requests[:together], requests):  # a warm-up first
            tokens.clear()
            before = engine.stats()
            for start in range(0, len(part), together):
                handles = [engine.submit(request) for request in part[start : start + together]]
                tokens += [token for handle in handles for token in handle.wait().tokens]
            after = engine.stats()
    said, took = len(tokens), after.decode_seconds - before.decode_seconds
    # The first two tokens of an answer come with the prompt, not in a step.
    return tokens, (said - 2 * len(requests)) / (after.rows - before.rows), took * 1e3 / said


def compare(
    work: str, checkpoint: Checkpoint, requests: Sequence[Request], drafts: Sequence[int], together: int
) -> list[Row]:
    """Milliseconds a token at each number of drafts."""
    said = {count: ground(checkpoint, requests, count, together) for count in (PLAIN, *drafts)}
    first = said[PLAIN]
    for count, (tokens, _, _) in said.items():
        if tokens != first[0] and checkpoint.model.dtype == torch.float32:
            raise AssertionError(f"{count} drafts change the answers; they must not")
    return [
        Row(work, f"{count} drafts", ms, "ms a token in the decoder", first[2] / ms, None, f"{rate:.2f} tokens a step")
        for count, (_, rate, ms) in said.items()
    ]


def main(
    count: Annotated[int, typer.Option(min=16, help="Captions for the seedling.")] = 64,
    drafts: Annotated[list[int], typer.Option(min=1, help="Tokens guessed a step.")] = [2, 4, 8],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Where to write the figures as JSON.")] = None,
) -> None:
    """Prints time and tokens a step with more and more drafts."""
    small = apart(lambda: checkpoints.load(checkpoints.SEEDLING))
    rows = []
    for together in (1, 16):
        work = f"seedling, fp32, {together} at a time"
        rows += compare(work, small, asked(count, LONGEST), drafts, together)
    with tempfile.TemporaryDirectory() as folder:
        base.save(Path(folder))
        large = apart(lambda: checkpoints.load(folder, dtype=torch.bfloat16))
    for together in (1, 4):
        work = f"base, bf16, {together} at a time, no guess right"
        rows += compare(work, large, asked(together, 24), drafts, together)
    show("Prompt lookup for phrase grounding", rows, out)


if __name__ == "__main__":
    typer.run(main)
