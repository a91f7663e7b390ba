"""What the floor counts, against the published figures of base's shape."""

import pytest
import torch

from benchmarks import base_checkpoint
from benchmarks.machine import Machine
from benchmarks.roofline import Floor

PLACES = 590  # 577 of a picture, 13 of a prompt


@pytest.fixture
def floor() -> Floor:
    return Floor.of(
        base_checkpoint.config(), base_checkpoint.SIDE, PLACES, torch.bfloat16, Machine(operations=1e12, bytes=1e10)
    )


def test_the_parts_of_base(floor: Floor) -> None:
    """As the table of work per request has them, in 16 bit."""
    assert floor.vision == pytest.approx(380e9, rel=0.02)
    assert floor.encoder == pytest.approx(56.5e9 + 8.4e9, rel=0.02)
    assert floor.weights == pytest.approx(178e6, rel=0.01)
    assert floor.source == pytest.approx(10.9e6, rel=0.01)
    assert floor.past == pytest.approx(18.4e3, rel=0.01)


def test_pictures_that_are_kept_and_steps_that_are_shared_cost_less(floor: Floor) -> None:
    cold, warm = (floor.seconds(pictures, [20] * 4) for pictures in (1, 0))
    assert cold - warm == pytest.approx(0.38, rel=0.02)
    alone, together = floor.seconds(0, [20] * 4, slots=1), floor.seconds(0, [20] * 4, slots=4)
    # The weights are read for four at once; prompts and what they remember cost the same.
    assert alone - together == pytest.approx(60 * floor.weights / 1e10, rel=0.01)


def test_beams_that_are_many_are_bound_by_their_products(floor: Floor) -> None:
    slow = Floor.of(
        base_checkpoint.config(), base_checkpoint.SIDE, PLACES, torch.bfloat16, Machine(operations=1e10, bytes=1e12)
    )
    one, three = (slow.seconds(0, [20] * 16, beams=beams) for beams in (1, 3))
    assert three - one == pytest.approx(2 * 320 * slow.step / 1e10, rel=0.01)
