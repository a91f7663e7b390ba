import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import locations
from prompts.locations import LOCATION_PATTERN, format_locations

sizes = st.floats(1, 1e6)
bins = st.integers(0, 999)


@given(st.floats(allow_nan=False), sizes)
def test_dequantize_returns_a_coordinate_of_the_same_bin(value, size):
    location = locations.quantize(value, size)
    assert locations.quantize(locations.dequantize(location, size), size) == location


@given(bins, sizes)
def test_dequantize_returns_the_center_of_the_bin(location, size):
    assert locations.dequantize(location, size) / size == pytest.approx((location + 0.5) / 1000)


@given(st.data(), sizes)
def test_inside_the_image_the_bin_is_the_floor_of_value_over_bin_width(data, size):
    value = data.draw(st.floats(0, size))
    assert locations.quantize(value, size) == min(math.floor(value / (size / 1000)), 999)


@pytest.mark.parametrize(
    ("value", "location"),
    [
        (-1, 0),
        (-math.inf, 0),
        (-0.0, 0),
        (640, 999),
        (639.999, 999),
        (1e300, 999),
        (math.inf, 999),
        (0.639, 0),
        (320, 500),
    ],
)
def test_coordinates_outside_the_image_are_clamped_to_the_border(value, location):
    assert locations.quantize(value, 640) == location


def test_nan_is_rejected():
    with pytest.raises(ValueError, match="NaN"):
        locations.quantize(math.nan, 640)


@pytest.mark.parametrize("size", [0, -5, math.nan, math.inf])
def test_a_size_must_be_positive_and_finite(size):
    with pytest.raises(ValueError, match="size"):
        locations.quantize(1, size)


@pytest.mark.parametrize("location", [-1, 1000])
def test_there_are_a_thousand_locations(location):
    with pytest.raises(ValueError, match="0 … 999"):
        locations.dequantize(location, 640)


def test_points_alternate_between_width_and_height():
    assert locations.quantize_points([100, 100, 200, 200], 1000, 500) == [100, 200, 200, 400]
    assert locations.dequantize_points([100, 200, 200, 400], 1000, 500) == [100.5, 100.25, 200.5, 200.25]


def test_locations_are_formatted_as_tokens():
    assert format_locations([0, 54, 999]) == "<loc_0><loc_54><loc_999>"


@given(bins)
def test_a_formatted_location_matches_the_pattern(location):
    match = LOCATION_PATTERN.fullmatch(format_locations([location]))
    assert match
    assert int(match[1]) == location


@pytest.mark.parametrize("text", ["<loc_1000>", "<loc_007>", "<loc_٣>", "<loc_>", "<loc_-1>", "loc_1"])
def test_other_spellings_are_not_locations(text):
    assert not LOCATION_PATTERN.fullmatch(text)
