"""The ground truth of a drawn scene. All coordinates are float pixels, x to the right and y down."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from seedling.scenes.colors import get_main_color


@dataclass(frozen=True)
class SceneObject:
    """The visible part of one drawn glyph."""

    category: str
    glyph: str
    """set/name, as in `glyphs/<set>.json`."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2, tight around the visible pixels with more than half opacity."""
    polygons: list[list[float]]
    """Outer rings x, y, x, y …, clockwise from the topmost (then leftmost) point. At most 16 points per ring and at
    most three rings, the largest first; holes are ignored. Never empty."""
    color_shares: tuple[float, ...]
    """For each of `colors.COLOR_NAMES`, its share of the visible pixels."""

    @property
    def color(self) -> str:
        """The most common of `colors.COLOR_NAMES` among the visible pixels."""
        return get_main_color(self.color_shares)


@dataclass(frozen=True)
class SceneWord:
    """One printed word."""

    text: str
    quad: tuple[float, float, float, float, float, float, float, float]
    """Clockwise from the top left corner of the text, rotated with the text, tight around the ink."""
    box: tuple[float, float, float, float]
    """Axis-aligned bounding box of the quad."""
    letter_boundaries: tuple[float, ...] = ()
    """Where one letter ends and the next begins, as fractions of the quad's width, without 0 and 1. Empty: all letters
    have the same width."""

    @property
    def letter_edges(self) -> np.ndarray:
        """The letters' edges along the word, 0 … 1, [letters + 1]."""
        if self.letter_boundaries:
            return np.array([0.0, *self.letter_boundaries, 1.0])
        return np.linspace(0, 1, len(self.text) + 1)

    @property
    def letter_centers(self) -> np.ndarray:
        """The letters' centers in pixels, [letters, 2]."""
        quad = np.array(self.quad).reshape(4, 2)
        left, right = (quad[0] + quad[3]) / 2, (quad[1] + quad[2]) / 2
        edges = self.letter_edges
        return left + (right - left) * ((edges[:-1] + edges[1:]) / 2)[:, None]


@dataclass(frozen=True)
class Scene:
    """An image with everything that is drawn on it."""

    image: Image.Image
    """RGB."""
    objects: tuple[SceneObject, ...]
    """Sorted by x1; only roughly after `jitter_order`."""
    words: tuple[SceneWord, ...]
    """Sorted by y1, then by x1."""
    background: str
    """The most common of `colors.COLOR_NAMES` in the background."""
    multicolored: bool = False
    """Whether other parts of the background may have other colors."""

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    def jitter_order(self, rng: np.random.Generator) -> "Scene":
        """Returns the scene with its objects only roughly sorted from left to right.

        Each left edge is moved by normal noise, with σ 3 % of the horizontal span of all objects. Two objects with
        nearly the same x can thus come in either order, so a model must condition on the object named before.
        """
        if not self.objects:
            return self
        left_edges = np.array([item.box[0] for item in self.objects])
        span = max(item.box[2] for item in self.objects) - left_edges.min()
        order = np.argsort(left_edges + rng.normal(0, 0.03, len(left_edges)) * span)
        return replace(self, objects=tuple(self.objects[i] for i in order))
