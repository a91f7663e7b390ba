"""What a drawn scene knows of itself. Pixels throughout, as floats, x to the right and y down."""

from dataclasses import dataclass

from PIL import Image


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
    colour: str
    """The commonest of `colours.NAMES` among the visible pixels."""


@dataclass(frozen=True)
class Word:
    text: str
    quad: tuple[float, float, float, float, float, float, float, float]
    """Clockwise from the text's own top left corner, turned with the text, tight on its ink."""
    box: tuple[float, float, float, float]
    """Upright bounding box of the quad."""


@dataclass(frozen=True)
class Scene:
    image: Image.Image
    """RGB."""
    objects: tuple[Object, ...]
    """From left to right by x1."""
    words: tuple[Word, ...]
    """From top to bottom by y1, then from left to right."""
    background: str
    """One of `colours.NAMES`: the colour that most of the background has."""

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height
