"""The vision tower: transformers' against ours, same weights, pictures and type, in one interleaved run.

`python -m benchmarks.vision`. transformers runs with sdpa and with eager attention, and its faster one counts. Below
both stands the floor: the time that the tower's matrix products alone take here, the convolutions that begin the
stages among them, as the paper writes them, on blocks that lie ready. (Ours folds some into fewer.) What is timed is
the process's CPU time, so that a busy machine blurs it less; with several threads it is the sum of theirs.
"""

import time
from collections.abc import Callable
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import Florence2Config, Florence2ForConditionalGeneration, Florence2VisionConfig

from server.engine.checkpoint import locate
from server.engine.davit import VisionTower

SIDES = {"base": 768, "seedling": 192}
Timed = Callable[[], object]


def network(shape: str, dtype: torch.dtype) -> Florence2ForConditionalGeneration:
    """Random weights of the published base shape under a BART of no layers, or the seedling."""
    if shape == "seedling":
        return Florence2ForConditionalGeneration.from_pretrained(locate("seedling"), dtype=dtype).eval()
    words = {"model_type": "bart", "vocab_size": 8, "d_model": 768, "encoder_layers": 0, "decoder_layers": 0}
    config = Florence2Config(text_config=words, vision_config={"projection_dim": 768}, image_token_id=4)
    torch.manual_seed(0)
    return Florence2ForConditionalGeneration(config).to(dtype).eval()


def products(config: Florence2VisionConfig, side: int, dtype: torch.dtype) -> list[tuple[int, Timed]]:
    """Each kind of matrix product of a picture: how often it is done, and the thing itself."""

    def linear(tokens: int, inputs: int, outputs: int) -> Timed:
        x, weight, bias = (torch.randn(s, dtype=dtype) for s in ((tokens, inputs), (outputs, inputs), (outputs,)))
        out = torch.empty(tokens, outputs, dtype=dtype)
        return lambda: torch.addmm(bias, x, weight.T, out=out)

    def batched(*shape: int) -> Timed:
        """`shape`: how many products, and the rows, inner and outer side of each."""
        n, rows, inner, outer = shape
        a, b = torch.randn(n, rows, inner, dtype=dtype), torch.randn(n, inner, outer, dtype=dtype)
        out = torch.empty(n, rows, outer, dtype=dtype)
        return lambda: torch.bmm(a, b, out=out)

    def conv(x: Tensor, outputs: int, stage: int) -> Timed:
        size, stride, padding = (v[stage] for v in (config.patch_size, config.patch_stride, config.patch_padding))
        x, weight = (
            v.contiguous(memory_format=torch.channels_last)
            for v in (x, torch.randn(outputs, x.shape[1], size, size, dtype=dtype))
        )
        return lambda: F.conv2d(x, weight, None, stride, padding)

    found: list[tuple[int, Timed]] = []
    inputs = config.in_channels
    for stage, (c, depth) in enumerate(zip(config.embed_dim, config.depths, strict=True)):
        found.append((1, conv(torch.randn(1, inputs, side, side, dtype=dtype), c, stage)))
        size, stride, padding = (v[stage] for v in (config.patch_size, config.patch_stride, config.patch_padding))
        side, inputs = (side + 2 * padding - size) // stride + 1, c
        tokens, heads, groups = side * side, config.num_heads[stage], config.num_groups[stage]
        windows, window, hidden = (
            (-(-side // config.window_size)) ** 2,
            config.window_size**2,
            int(c * config.mlp_ratio),
        )
        found += [
            (depth, linear(windows * window, c, 3 * c)),
            (depth, linear(windows * window, c, c)),
            (depth, batched(windows * heads, window, c // heads, window)),
            (depth, batched(windows * heads, window, window, c // heads)),
            (depth, linear(tokens, c, 3 * c)),
            (depth, linear(tokens, c, c)),
            (depth, batched(groups, c // groups, tokens, c // groups)),
            (depth, batched(groups, tokens, c // groups, c // groups)),
            (2 * depth, linear(tokens, c, hidden)),
            (2 * depth, linear(tokens, hidden, c)),
        ]
    return [*found, (1, linear(side * side + 1, inputs, config.projection_dim))]


def seconds(timed: Timed) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    timed()
    return time.process_time() - start


@torch.inference_mode()
def main(
    shape: Annotated[Literal["base", "seedling"], typer.Option(help="The tower's shape.")] = "base",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of weights and pictures.")] = "float32",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures a pass.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Passes of each side, in turns; the fastest counts.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="For all sides.")] = 1,
) -> None:
    """Prints CPU milliseconds a picture of both sides, their ratio, and the share of the floor that each reaches."""
    torch.set_num_threads(threads)
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    model, side = network(shape, kind), SIDES[shape]
    tower = VisionTower(model.config)
    tower.load(model.state_dict())
    pixels = torch.randn(pictures, 3, side, side).to(kind)

    def transformers(attention: str) -> Tensor:
        model.set_attn_implementation({"vision_config": attention, "text_config": "eager"})
        return model.model.get_image_features(pixels).pooler_output

    sides: dict[str, Callable[[], Tensor]] = {
        "transformers, sdpa": lambda: transformers("sdpa"),
        "transformers, eager": lambda: transformers("eager"),
        "florist": lambda: tower(pixels),
    }
    features = {name: run() for name, run in sides.items()}  # and a warm-up
    times: dict[str, list[float]] = {name: [] for name in sides}
    floor = products(model.config.vision_config, side, kind)
    alone: list[list[float]] = [[] for _ in floor]
    for _ in range(rounds):
        for name, run in sides.items():
            times[name].append(seconds(run) / pictures)
        for own, (_, product) in zip(alone, floor, strict=True):
            product()
            own.append(seconds(product))
    best = {name: min(values) for name, values in times.items()}
    least = sum(count * min(own) for own, (count, _) in zip(alone, floor, strict=True))
    counted = min(best[name] for name in best if name != "florist")
    table = Table(title=f"{shape}, {side} px, {dtype}, {pictures} a pass, fastest of {rounds}")
    for column in ("side", "CPU ms a picture", "ratio", "share of the floor"):
        table.add_column(column, justify="right")
    for name, took in best.items():
        table.add_row(name, f"{took * 1000:.1f}", f"{counted / took:.2f}×", f"{least / took:.0%}")
    table.add_row("matrix products alone", f"{least * 1000:.1f}", f"{counted / least:.2f}×", "")
    console = Console(width=100)
    console.print(table)
    theirs, ours = features["transformers, sdpa"].float(), features["florist"].float()
    console.print(f"largest difference: {(theirs - ours).abs().max() / theirs.abs().max():.1e} of the largest feature")
    console.print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )


if __name__ == "__main__":
    typer.run(main)
