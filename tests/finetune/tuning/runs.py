"""Short runs on a tiny base."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune.tuning.config import TuneConfig
from finetune.tuning.loop import tune
from finetune.tuning.result import TuneResult
from finetune.tuning.run_record import TuneData
from labels.labeled_image import LabeledImage

CLASSES = ("cat", "dog", "tree")


def make_config(base: str, **settings: Any) -> TuneConfig:
    small = {
        "steps": 6, "batch_size": 2, "prompts_per_image": 2, "replay_share": 0.0, "lora_rank": 4, "lora_alpha": 8,
        "evaluate_every": 2,
    }  # fmt: skip
    return TuneConfig(base=base, **{**small, "metric": "loss", "lora_dropout": 0.1, **settings})


def run(config: TuneConfig, images: Sequence[LabeledImage], out: Path, **options: Any) -> TuneResult:
    """Trains on the first four images, with the others as the holdout."""
    return tune(config, TuneData(images[:4], images[4:], CLASSES), out, workers=0, **options)


def is_same_run(one: Path, two: Path) -> bool:
    """Returns whether parameters, averages and saved weights are bit-identical."""
    states = [torch.load(out / "state.pt", weights_only=True)["trainer"] for out in (one, two)]
    weights = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, two)]
    return (
        all(torch.equal(v, states[1]["average"][k]) for k, v in states[0]["average"].items())
        and all(torch.equal(v, states[1]["parameters"][k]) for k, v in states[0]["parameters"].items())
        and all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())
    )


def stop_after(calls: int) -> Callable[[], bool]:
    """Returns a function that returns True after this number of calls."""
    count = iter(range(10_000))
    return lambda: next(count) >= calls
