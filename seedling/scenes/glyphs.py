"""The objects that can be drawn: 40 categories of glyphs in several emoji sets, rendered to RGBA once per process."""

import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import resvg_py
from PIL import Image

CATEGORIES: tuple[str, ...] = tuple(
    """
    cat dog bird fish horse cow elephant car bus bicycle boat airplane train rocket tree flower house ball chair
    clock umbrella book bottle cup pizza apple banana cake key phone balloon guitar star hat shoe backpack lamp bell
    donut carrot
    """.split()  # noqa: SIM905
)
TRAINING_SETS: tuple[str, ...] = (
    "noto",
    "noto-v1",
    "twemoji",
    "fluent-emoji-flat",
    "fxemoji",
    "emojione",
    "streamline-emojis",
)
HOLDOUT_SET = "openmoji"
"""Never used for training. Metrics on it measure transfer to an unseen style."""

SIDE = 256
"""Width in pixels at which a glyph is rendered. Objects are drawn by shrinking, hardly ever by enlarging."""


@dataclass(frozen=True)
class Glyph:
    """One SVG image of one category. `set` and `name` are those of its Iconify package."""

    set: str
    name: str
    category: str
    svg: str

    @property
    def path(self) -> str:
        return f"{self.set}/{self.name}"


@cache
def load_glyph_set(name: str) -> dict[str, tuple[Glyph, ...]]:
    """Returns category → glyphs of the set `name`. A category that the set lacks is missing.

    Raises FileNotFoundError for an unknown set.
    """
    contents = json.loads((Path(__file__).parent / "glyphs" / f"{name}.json").read_text())
    return {
        category: tuple(Glyph(name, icon["name"], category, icon["svg"]) for icon in icons)
        for category, icons in contents["icons"].items()
    }


@cache
def render_glyph(glyph: Glyph) -> Image.Image:
    """Returns the glyph as RGBA, rendered SIDE pixels wide and cropped to the bounding box of its visible alpha."""
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=glyph.svg, width=SIDE)))).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()
    if box is None:
        raise ValueError(f"glyph {glyph.path} is empty")
    return image.crop(box)
