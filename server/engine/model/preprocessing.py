"""Preprocessing: an image → the pixels that the vision encoder takes."""

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
    """An image, resized for the vision encoder.

    `size`: width × height of the original image. `pixels`: uint8 [height, width, 3] of the resized image. `key`: a hash
    of the pixels.
    """

    size: tuple[int, int]
    pixels: np.ndarray
    key: bytes


@dataclass(frozen=True, slots=True)
class ImagePreprocessor:
    """Resizes, scales and normalizes images as in preprocessor_config.json. Does not keep the aspect ratio.

    `mean`, `std`: of the red, green and blue channels, scaled to 0 … 1.
    """

    width: int
    height: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BICUBIC
    scale: float = 1 / 255

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Reads the content of a preprocessor_config.json. Raises ValueError for unsupported steps, such as a crop."""
        size = config.get("size")
        if not isinstance(size, Mapping) or not {"width", "height"} <= set(size):
            raise ValueError(f"size must be a width and a height, not {size}")
        for step, required in (
            ("do_center_crop", False),
            ("do_resize", True),
            ("do_rescale", True),
            ("do_normalize", True),
        ):
            if bool(config.get(step, required)) is not required:
                raise ValueError(f"{step} is {config[step]}; Florence-2 needs {required}")
        mean, std = (tuple(float(v) for v in config[name]) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"image_mean {mean} and image_std {std} need three channels, and deviations above 0")
        return cls(
            width=int(size["width"]),
            height=int(size["height"]),
            mean=mean,
            std=std,
            resample=Image.Resampling(config.get("resample", Image.Resampling.BICUBIC)),
            scale=float(config.get("rescale_factor", 1 / 255)),
        )

    def resize(self, image: Image.Image) -> np.ndarray:
        """Returns an image of any mode as RGB, uint8 [height, width, 3]."""
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        return np.asarray(rgb.resize((self.width, self.height), self.resample))

    def prepare(self, image: Image.Image) -> PreparedImage:
        """Resizes an image of any mode and computes its key."""
        return self.prepare_resized(image.size, self.resize(image))

    @property
    def resizing(self) -> tuple[int, int, int]:
        """The width, the height and Pillow's resampling filter of `resize`."""
        return self.width, self.height, int(self.resample)

    def prepare_resized(self, size: tuple[int, int], pixels: np.ndarray) -> PreparedImage:
        """Same as `prepare`, for an image of `size` (width, height) that was resized elsewhere as `resize` does."""
        key = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
        return PreparedImage(size, pixels, key)

    def normalize(self, resized: Sequence[np.ndarray], device: torch.device | str = "cpu") -> Tensor:
        """n resized images → normalized pixels, fp32 [n, 3, height, width].

        Bit for bit equal to transformers' CLIPImageProcessor with Pillow.
        """
        # Bytes go to the device, because they are a quarter of the size of floats. Scaled in double, as transformers
        # does: the last bit of a pixel can change the third digit of a feature.
        pixels = torch.from_numpy(np.stack(resized)).to(device).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (self.mean, self.std))
        return (((pixels.double() * self.scale).float() - mean) / std).contiguous()


def count_image_tokens(config: Florence2Config, preprocessor: ImagePreprocessor) -> int:
    """Returns the number of tokens per image: the cells of DaViT's last grid, and the pooled token.

    Raises ValueError when the grid is empty, or larger than the position embeddings.
    """
    vision, sides = config.vision_config, [preprocessor.height, preprocessor.width]
    for size, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        sides = [(side + 2 * padding - size) // stride + 1 for side in sides]
    height, width = sides
    if not 0 < min(sides) <= max(sides) <= vision.max_position_embeddings:
        raise ValueError(f"an image of {preprocessor.height}×{preprocessor.width} makes a grid of {height}×{width}")
    return height * width + 1
