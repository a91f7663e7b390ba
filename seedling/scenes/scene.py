"""What a drawn scene knows of itself. Pixels throughout, as floats, x to the right and y down."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from seedling.scenes.colors import main_color


@dataclass(frozen=True)
class Object:
    """One glyph as far as it is visible."""

    category: str
    glyph: str
    """set/name, as in `glyphs/<set>.json`."""
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2, tight on the visible pixels of more than half opacity."""
    polygons: list[list[float]]
    """Outer rings x, y, x, y …, clockwise from the topmost (then leftmost) point, at most 16 points each, at most three
    rings, the largest first; holes are not told. Never empty."""
    color_shares: tuple[float, ...]
    """The share of each of `colours.NAMES` among the visible pixels."""

    @property
    def color(self) -> str:
        """The commonest of `colours.NAMES` among the visible pixels."""
        return main_color(self.color_shares)


@dataclass(frozen=True)
class Word:
    text: str
    quad: tuple[float, float, float, float, float, float, float, float]
    """Clockwise from the text's own top left corner, turned with the text, tight on its ink."""
    box: tuple[float, float, float, float]
    """Upright bounding box of the quad."""
    stops: tuple[float, ...] = ()
    """Where letters end and the next begin, all but the first and the last edge, as shares of the quad's width; none:
    each is as wide as the other."""

    @property
    def edges(self) -> np.ndarray:
        """The letters' edges along the word, 0 … 1, [letters + 1]."""
        return np.array([0.0, *self.stops, 1.0]) if self.stops else np.linspace(0, 1, len(self.text) + 1)

    @property
    def middles(self) -> np.ndarray:
        """The letters' middles in pixels, [letters, 2]."""
        quad = np.array(self.quad).reshape(4, 2)
        left, right = (quad[0] + quad[3]) / 2, (quad[1] + quad[2]) / 2
        return left + (right - left) * ((self.edges[:-1] + self.edges[1:]) / 2)[:, None]


@dataclass(frozen=True)
class Scene:
    image: Image.Image
    """RGB."""
    objects: tuple[Object, ...]
    """From left to right by x1, nearly so where `reordered`."""
    words: tuple[Word, ...]
    """From top to bottom by y1, then from left to right."""
    background: str
    """One of `colours.NAMES`: the colour that most of the background has."""
    mixed: bool = False
    """Whether other parts of the background may well be of other colours."""

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    def reordered(self, rng: np.random.Generator) -> "Scene":
        """The same with its objects roughly from left to right, each start moved by chance (σ 3 % of what they span):
        of two that begin at nearly one x either may come first, so that what is told must follow the name just said."""
        if not self.objects:
            return self
        begins = np.array([thing.box[0] for thing in self.objects])
        span = max(thing.box[2] for thing in self.objects) - begins.min()
        order = np.argsort(begins + rng.normal(0, 0.03, len(begins)) * span)
        return replace(self, objects=tuple(self.objects[i] for i in order))
