"""The drawn vocabulary: 40 categories of glyphs in several emoji sets, rendered to RGBA once a process."""

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
HELD_OUT_SET = "openmoji"
"""Never drawn for training: what a model makes of it is its transfer to an unseen style."""

SIDE = 256
"""Pixels of a glyph's longer side as rendered; objects are drawn by shrinking, hardly ever by enlarging."""


@dataclass(frozen=True)
class Glyph:
    """One SVG picture of one category. `set` and `name` are those of the Iconify package it comes from."""

    set: str
    name: str
    category: str
    svg: str

    @property
    def path(self) -> str:
        return f"{self.set}/{self.name}"


@cache
def glyph_set(name: str) -> dict[str, tuple[Glyph, ...]]:
    """Category → its glyphs in the set `name`; a category that the set lacks is absent.

    Raises FileNotFoundError when there is no such set.
    """
    contents = json.loads((Path(__file__).parent / "glyphs" / f"{name}.json").read_text())
    return {
        category: tuple(Glyph(name, icon["name"], category, icon["svg"]) for icon in icons)
        for category, icons in contents["icons"].items()
    }


@cache
def rendered(glyph: Glyph) -> Image.Image:
    """RGBA picture of the glyph, SIDE pixels wide before it is cut to the bounding box of its visible alpha."""
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=glyph.svg, width=SIDE)))).convert("RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 127)).getbbox()
    if box is None:
        raise ValueError(f"glyph {glyph.path} draws nothing")
    return picture.crop(box)
