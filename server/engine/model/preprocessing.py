"""Pictures → what the vision tower takes, and what it gives."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import Florence2Config


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A picture made ready: `size` is its own, width × height; `pixels` uint8 [height, width, 3] as the tower takes
    them; `key` tells it apart from every other."""

    size: tuple[int, int]
    pixels: np.ndarray
    key: bytes


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """A checkpoint's preprocessor_config.json: squash to width × height, scale, normalise.

    `mean`, `std`: of the red, green and blue channels after scaling to 0 … 1.
    """

    width: int
    height: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BICUBIC
    scale: float = 1 / 255

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Reads the hub's form. Raises ValueError for steps that florist does not take, such as a crop."""
        size = config.get("size")
        if not isinstance(size, Mapping) or not {"width", "height"} <= set(size):
            raise ValueError(f"size must be a width and a height, not {size}")
        for step, wanted in (
            ("do_center_crop", False),
            ("do_resize", True),
            ("do_rescale", True),
            ("do_normalize", True),
        ):
            if bool(config.get(step, wanted)) is not wanted:
                raise ValueError(f"{step} is {config[step]}; Florence-2 needs {wanted}")
        mean, std = (tuple(float(v) for v in config[name]) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"image_mean {mean} and image_std {std} must be three channels each, and no deviation 0")
        return cls(
            width=int(size["width"]),
            height=int(size["height"]),
            mean=mean,
            std=std,
            resample=Image.Resampling(config.get("resample", Image.Resampling.BICUBIC)),
            scale=float(config.get("rescale_factor", 1 / 255)),
        )

    def squash(self, image: Image.Image) -> np.ndarray:
        """A picture in any mode → uint8 [height, width, 3], its shape given up as the model was taught."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(rgb.resize((self.width, self.height), self.resample))

    def prepare(self, image: Image.Image) -> PreparedImage:
        """A picture in any mode → what the engine keeps of it."""
        pixels = self.squash(image)
        key = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
        return PreparedImage(image.size, pixels, key)

    def normalise(self, squashed: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
        """n squashed pictures → pixel values, fp32 [n, 3, height, width].

        Equal to transformers' CLIPImageProcessor on Pillow, to the bit.
        """
        # Bytes cross to the device, a quarter of the floats. Scaled in double, as transformers does: the last bit of a
        # pixel can be the third digit of a feature.
        pixels = torch.from_numpy(np.stack(squashed)).to(device).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (self.mean, self.std))
        return (((pixels.double() * self.scale).float() - mean) / std).contiguous()


def count_image_tokens(config: Florence2Config, preprocessing: Preprocessing) -> int:
    """How many of the encoder's places a picture takes: DaViT's last grid, and the pooled token before it."""
    vision, sides = config.vision_config, [preprocessing.height, preprocessing.width]
    for size, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
    height, width = sides
    if not 0 < min(sides) <= max(sides) <= vision.max_position_embeddings:
        raise ValueError(f"a picture of {preprocessing.height}×{preprocessing.width} makes a grid of {height}×{width}")
    return height * width + 1
