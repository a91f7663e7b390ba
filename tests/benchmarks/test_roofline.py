"""The roofline's costs, against the published figures of base."""

import pytest
import torch

from benchmarks.base_checkpoint import IMAGE_SIDE, build_base_config
from benchmarks.machine import MachineSpeed
from benchmarks.roofline import Roofline

TOKENS = 590  # 577 of an image, 13 of a prompt


def make_roofline(operations: float, bytes_: float) -> Roofline:
    speed = MachineSpeed(operations=operations, bytes=bytes_)
    return Roofline.from_config(build_base_config(), IMAGE_SIDE, TOKENS, torch.bfloat16, speed)


@pytest.fixture
def roofline() -> Roofline:
    return make_roofline(1e12, 1e10)


def test_the_costs_of_base(roofline: Roofline) -> None:
    """In 16 bit, as in the table of work per request."""
    assert roofline.vision == pytest.approx(380e9, rel=0.02)
    assert roofline.encoder == pytest.approx(56.5e9 + 8.4e9, rel=0.02)
    assert roofline.weights == pytest.approx(178e6, rel=0.01)
    assert roofline.source == pytest.approx(10.9e6, rel=0.01)
    assert roofline.past == pytest.approx(18.4e3, rel=0.01)


def test_cached_images_and_shared_steps_cost_less(roofline: Roofline) -> None:
    cold, warm = (roofline.min_seconds(images, [20] * 4) for images in (1, 0))
    assert cold - warm == pytest.approx(0.38, rel=0.02)
    alone, together = roofline.min_seconds(0, [20] * 4, slots=1), roofline.min_seconds(0, [20] * 4, slots=4)
    # The weights are read once for four requests; prompts and caches cost the same.
    assert alone - together == pytest.approx(60 * roofline.weights / 1e10, rel=0.01)


def test_many_beams_are_bound_by_matrix_products() -> None:
    slow = make_roofline(1e10, 1e12)
    one, three = (slow.min_seconds(0, [20] * 16, beams=beams) for beams in (1, 3))
    assert three - one == pytest.approx(2 * 320 * slow.step / 1e10, rel=0.01)
