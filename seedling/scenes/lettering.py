"""Printed words: random strings in the open fonts that Matplotlib and Pillow install."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seedling.scenes import colors
from seedling.scenes.scene import SceneWord

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
# DejaVu (Bitstream Vera license) and STIX (OFL) come with Matplotlib; None is Pillow's own Aileron (CC0).
FONTS: tuple[str | None, ...] = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "STIXGeneralBol", "STIXGeneral", "cmss10", "cmtt10", None,
)  # fmt: skip
MODEL_SIDE = 192
"""Input size of the model, in pixels, for which words are made legible: that of the first stages of training."""


@dataclass(frozen=True)
class WordLayout:
    """A word that is laid out but not yet placed."""

    text: str
    ink: Image.Image
    """An L mask, cropped to its bounding box, not rotated."""
    angle: float
    """Degrees, counterclockwise."""
    pad: int
    """Pixels around the ink that a plate behind the word covers; 0 without a plate."""
    letter_boundaries: tuple[float, ...] = ()
    """See `SceneWord`."""

    def corners(self, pad: float = 0) -> np.ndarray:
        """Returns the (4, 2) corners clockwise from the text's top left, relative to the center of the ink."""
        w, h = self.ink.width / 2 + pad, self.ink.height / 2 + pad
        turn = np.deg2rad(self.angle)
        points = np.array([[-w, -h], [w, -h], [w, h], [-w, h]])
        return points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


@lru_cache(maxsize=1024)
def load_font(name: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if name is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def make_random_text(rng: np.random.Generator) -> str:
    """Returns 3 to 8 characters (mostly 3 to 6): letters in most cases, digits in some, both in the rest."""
    length = int(rng.choice([3, 4, 5, 6, 7, 8], p=[0.2, 0.28, 0.26, 0.18, 0.05, 0.03]))
    kind = rng.random()
    alphabet = LETTERS if kind < 0.6 else DIGITS if kind < 0.75 else LETTERS + DIGITS
    return "".join(alphabet[int(i)] for i in rng.integers(len(alphabet), size=length))


def lay_out_word(rng: np.random.Generator, canvas: tuple[int, int]) -> WordLayout:
    """Returns a random word, sized so that it is legible after the canvas (width, height) is resized for the model.

    There, its letters are 7.5-19 pixels wide on average and at least 8 pixels high. Long words get narrower letters,
    and lose letters when they do not fit.
    """
    width, height = canvas
    content = make_random_text(rng)
    name = FONTS[int(rng.integers(len(FONTS)))]
    letter_width = rng.uniform(7.5, min(19.0, 0.8 * MODEL_SIDE / len(content))) * width / MODEL_SIDE
    reference = load_font(name, 64)
    while True:
        left, top, right, bottom = reference.getbbox(content)
        size = max(letter_width * len(content) / (right - left), 8.5 * height / MODEL_SIDE / (bottom - top)) * 64
        if size / 64 * (right - left) <= 0.9 * width or len(content) == 3:
            break
        content = content[:-1]
    font = load_font(name, max(8, round(size)))
    left, top, right, bottom = (round(v) for v in font.getbbox(content))
    sheet = Image.new("L", (right - left + 8, bottom - top + 8), 0)
    ImageDraw.Draw(sheet).text((4 - left, 4 - top), content, fill=255, font=font)
    tight = sheet.point(lambda v: 255 * (v > 100)).getbbox()
    ink = sheet.crop(tight)
    start = (tight[0] if tight else 0) - 4 + left  # of the ink, relative to the pen's start position
    boundaries = tuple((font.getlength(content[:k]) - start) / ink.width for k in range(1, len(content)))
    angle = 0.0 if rng.random() < 0.65 else float(rng.uniform(-15, 15))
    pad = round(ink.height * rng.uniform(0.15, 0.5)) if rng.random() < 0.35 else 0
    return WordLayout(content, ink, angle, pad, boundaries)


def paint_word(
    rng: np.random.Generator, image: Image.Image, layout: WordLayout, center: tuple[float, float]
) -> SceneWord:
    """Draws the word around `center` on the RGB image, in place. On a busy background it gets a plate."""
    around = layout.corners(max(layout.pad, 2)) + center
    x1, y1 = np.floor(around.min(axis=0)).astype(int)
    x2, y2 = np.ceil(around.max(axis=0)).astype(int)
    under = np.asarray(image.crop((int(x1), int(y1), int(x2), int(y2))).resize((16, 8), Image.Resampling.BOX))
    ground = under.reshape(-1, 3).mean(axis=0)
    pad = layout.pad or (2 if under.std(axis=(0, 1)).max() > 22 else 0)
    if pad:
        plate = colors.pick_random_color(rng)
        points = [(float(x), float(y)) for x, y in layout.corners(pad) + center]
        ImageDraw.Draw(image).polygon(points, fill=plate)
        ground = np.array(plate, np.float64)
    ink = layout.ink if layout.angle == 0 else layout.ink.rotate(layout.angle, Image.Resampling.BICUBIC, expand=True)
    at = (round(center[0] - ink.width / 2), round(center[1] - ink.height / 2))
    image.paste(colors.pick_contrasting_color(rng, ground), at, ink)
    corners = layout.corners() + np.array([at[0] + ink.width / 2, at[1] + ink.height / 2])
    low, high = corners.min(axis=0), corners.max(axis=0)
    quad = tuple(float(v) for v in corners.ravel())
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return SceneWord(layout.text, quad, box, layout.letter_boundaries)  # type: ignore[arg-type]
