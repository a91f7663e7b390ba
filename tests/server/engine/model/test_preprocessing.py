"""Preprocessing: pixels equal those of transformers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Florence2Config

from server.engine.checkpoints.loading import Checkpoint
from server.engine.model.preprocessing import ImagePreprocessor, count_image_tokens
from tests.server.engine import reference
from tests.server.engine.tiny import create_image, create_preprocessor_config

# The relevant part of microsoft/Florence-2-large's preprocessor_config.json.
PUBLISHED: dict[str, Any] = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "do_center_crop": False,
    "image_processor_type": "CLIPImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"height": 768, "width": 768},
    "crop_size": {"height": 768, "width": 768},
}


@pytest.mark.parametrize("size", [(640, 480), (1, 1), (768, 768), (3, 900), (1600, 31)])
def test_pixel_values_equal_transformers(tiny: Checkpoint, size: tuple[int, int]) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    preprocessor = ImagePreprocessor.from_config(PUBLISHED)
    got = preprocessor.normalize([preprocessor.resize(image)])
    expected = reference.compute_pixel_values(replace(tiny, preprocessor=preprocessor), image)
    assert got.shape == (1, 3, 768, 768)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


def test_an_image_of_another_mode_is_converted_to_rgb() -> None:
    preprocessor = ImagePreprocessor.from_config(create_preprocessor_config(8))
    gray = Image.new("L", (5, 4), 77)
    assert (preprocessor.resize(gray) == 77).all()
    assert preprocessor.resize(gray).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 224}},
        {"size": 768},
        {"do_center_crop": True},
        {"do_resize": False},
        {"image_std": [0.2, 0.2]},
        {"image_std": [0.2, 0.0, 0.2]},
        {"resample": 99},
    ],
    ids=str,
)
def test_unsupported_steps_are_rejected(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ImagePreprocessor.from_config(PUBLISHED | change)


def test_different_images_have_different_keys() -> None:
    preprocessor = ImagePreprocessor.from_config(create_preprocessor_config())
    one, same, other = (preprocessor.prepare(create_image(i)) for i in (1, 1, 2))
    assert one.key == same.key != other.key
    assert one.size == create_image(1).size


@pytest.mark.parametrize("side", [64, 96, 50])
def test_the_number_of_image_tokens_is_that_of_the_vision_encoder(tiny: Checkpoint, side: int) -> None:
    preprocessor = ImagePreprocessor.from_config(create_preprocessor_config(side))
    with torch.inference_mode():
        features = tiny.model.encode_images(preprocessor.normalize([preprocessor.resize(create_image())]))
    assert features.shape == (1, count_image_tokens(tiny.model.config, preprocessor), 32)


def test_the_published_config_gives_577_image_tokens() -> None:
    assert count_image_tokens(Florence2Config(), ImagePreprocessor.from_config(PUBLISHED)) == 577
