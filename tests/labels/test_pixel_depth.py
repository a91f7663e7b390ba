"""More than 8 bits per channel become 8."""

import numpy as np
import pytest
from PIL import Image

from labels.images import decode_image
from tests.labels.attack_images import encode, make_deep_png

RAMP = np.linspace(0, 1, 60).reshape(6, 10)


def decode(values: np.ndarray, kind: str = "PNG") -> np.ndarray:
    data = make_deep_png(values) if kind == "PNG" else encode(Image.fromarray(values), kind)
    return np.asarray(decode_image(data)).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize(("low", "high"), [(0, 4095), (0, 16_383), (28_000, 32_000), (65_000, 65_535), (0, 1)])
def test_gray_of_a_narrow_range_is_stretched(kind: str, low: int, high: int) -> None:
    got = decode(np.rint(low + RAMP * (high - low)).astype(np.uint16), kind)
    assert (got.min(), got.max()) == (0, 255)


@pytest.mark.parametrize(("low", "high"), [(0, 65_535), (0, 20_000), (20_000, 60_000)])
def test_gray_of_a_wide_range_is_scaled_by_the_whole_range(low: int, high: int) -> None:
    values = np.rint(low + RAMP * (high - low)).astype(np.uint16)
    assert np.abs(decode(values)[..., 0] - values / 257).max() <= 0.5


def test_one_gray_stays_as_it_is() -> None:
    assert set(decode(np.full((3, 4), 30_000, np.uint16)).flat) == {117}


@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_a_narrow_range_are_stretched_together(channels: int) -> None:
    values = np.zeros((6, 10, channels), np.uint16)
    values[..., 0] = 1000 + RAMP * 3000
    values[..., 1] = 1000 + RAMP * 1500
    values[..., 2] = 1000
    values[..., 3:] = 65_535
    got = decode(values)
    assert (got[..., 0].min(), got[..., 0].max()) == (0, 255)
    assert got[..., 1].max() in (127, 128)
    assert got[..., 2].max() == 0
    assert len(set(got[..., 0].flat)) > 50  # from all 16 bits, not from the high bytes


@pytest.mark.parametrize(("low", "high"), [(0, 65_535), (0, 30_000)])
def test_colors_of_a_wide_range_are_not_stretched(low: int, high: int) -> None:
    values = np.repeat(np.rint(low + RAMP * (high - low)).astype(np.uint16)[..., None], 3, axis=2)
    assert (decode(values) == values >> 8).all()


def test_floats_of_a_narrow_range_are_stretched() -> None:
    got = decode((20 + RAMP * 15).astype(np.float32), "TIFF")  # degrees of a thermal camera
    assert (got.min(), got.max()) == (0, 255)


def test_eight_bits_are_never_stretched() -> None:
    gray = Image.fromarray((100 + RAMP * 10).astype(np.uint8))
    assert (np.asarray(decode_image(encode(gray)))[..., 0] == np.asarray(gray)).all()
