"""Converts images of more than 8 bits per channel to 8 bits.

Values are scaled by the range of their kind: 0 to 65,535 for integers; 0 to 1 or 0 to 255 for floats. Where they span
less than a quarter of it, as those of 12-bit and thermal cameras in 16 bits, they are stretched to their own range:
otherwise the image would be nearly one gray. Values beyond the range are also stretched to their own range.
"""

import io
from typing import Any

from PIL import Image

_NARROW = 0.25  # share of the range
_DEEPEST = 65535
_ROWS = 256  # that are converted at a time, to save memory
# The raw mode that reads the other byte of each value: Pillow keeps only the high bytes of colors with 16 bits.
_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B"))
}


def is_deep_gray(image: Image.Image) -> bool:
    """Returns whether an image has one channel with more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def scale_gray(image: Image.Image) -> Image.Image:
    """Converts gray of more than 8 bits to RGB. NaN becomes black."""
    import numpy as np  # only here and below: most images do not need it, and it takes longer to load than the rest

    values = np.asarray(image)
    is_float = image.mode == "F"
    finite = values[np.isfinite(values)] if is_float else values
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    low, high = 0.0, float(_DEEPEST) if not is_float else 1.0 if most <= 1 else 255.0
    if least < low or most > high or 0 < most - least < _NARROW * (high - low):
        low, high = least, most
    return Image.fromarray(_scale(values, low, high)).convert("RGB")


def find_deep_colors(opened: Image.Image) -> Any:
    """Returns the tile that reads the low bytes of an image with 16 bits per color, which is opened but not loaded;
    None if it has 8 bits."""
    tiles = getattr(opened, "tile", [])
    if opened.mode not in ("RGB", "RGBA", "RGBX") or not tiles:
        return None
    args = tiles[0].args
    raw_mode = args if isinstance(args, str) else args[0] if args else None
    other = _OTHER_BYTE.get(raw_mode or "")
    if other is None:
        return None
    return [tile._replace(args=other if isinstance(args, str) else (other, *args[1:])) for tile in tiles]


def stretch_colors(image: Image.Image, low_bytes: Any, data: bytes) -> Image.Image:
    """Returns a loaded image with 16 bits per color as 8 bits, stretched if its values span less than a quarter of the
    range.

    `image` has the high bytes. `low_bytes`: of `find_deep_colors`. `data`: the file.
    """
    import numpy as np

    if image.mode not in ("RGB", "RGBA", "RGBX"):
        return image
    extrema = image.split()[:3]
    least, most = (choose(channel.getextrema()[i] for channel in extrema) for i, choose in ((0, min), (1, max)))
    if (most - least - 1) * 256 >= _NARROW * _DEEPEST:  # type: ignore[operator]
        return image
    with Image.open(io.BytesIO(data), formats=[image.format or ""]) as opened:
        opened.tile = low_bytes
        opened.load()
        values = np.asarray(image)[..., :3].astype(np.uint16)
        values <<= 8
        values |= np.asarray(opened)[..., :3]
    low, high = float(values.min()), float(values.max())
    if not 0 < high - low < _NARROW * _DEEPEST:
        return image
    stretched = Image.fromarray(_scale(values, low, high))
    if image.mode == "RGBA":
        stretched.putalpha(image.getchannel("A"))
    return stretched


def _scale(values: Any, low: float, high: float) -> Any:
    """Returns the values as uint8: 0 for `low`, 255 for `high`."""
    import numpy as np

    scale = 255 / ((high - low) or 1.0)
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        part = np.nan_to_num(values[start : start + _ROWS].astype(np.float32), nan=low, posinf=high, neginf=low)
        part *= scale
        part -= low * scale
        scaled[start : start + _ROWS] = np.rint(part, out=part).clip(0, 255)
    return scaled
