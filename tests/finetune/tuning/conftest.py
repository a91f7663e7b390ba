"""A tiny base and a few images to fine-tune it on."""

import os
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from prompts.annotations import Box
from seedling.scenes.drawing import draw_scene
from tests.finetune.tuning.runs import make_config, run
from tests.server.engine.tiny import create_tiny_model, save_checkpoint

logging.disable_progress_bar()
os.environ["ACCELERATE_USE_CPU"] = "true"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of random weights, 64 pixels a side."""
    torch.set_num_threads(1)
    return str(save_checkpoint(tmp_path_factory.mktemp("base"), create_tiny_model()))


def make_image(seed: int) -> LabeledImage:
    """A drawn scene with boxes."""
    scene = draw_scene(seed, objects=(1, 2), words=(0, 0))
    boxes = tuple(Box(label=item.category, box=item.box) for item in scene.objects)
    whole = frozenset({LabelKind.OBJECTS})
    return LabeledImage(f"{seed}.png", "drawn", scene.width, scene.height, boxes, lambda: scene.image, whole)


@pytest.fixture(scope="session")
def images() -> list[LabeledImage]:
    """Six images."""
    return [make_image(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def uninterrupted(base: str, images: list[LabeledImage], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from its first step to its last."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("uninterrupted") / "run"
    run(make_config(base), images, out)
    return out
