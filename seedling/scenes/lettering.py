"""Printed words: invented, in the open fonts that Matplotlib and Pillow install."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seedling.scenes import colors
from seedling.scenes.scene import Word

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
# DejaVu (Bitstream Vera licence) and STIX (OFL) come with Matplotlib; None is Pillow's own Aileron (CC0).
FONTS: tuple[str | None, ...] = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSerif",
    "DejaVuSerif-Bold", "STIXGeneralBol", "STIXGeneral", "cmss10", "cmtt10", None,
)  # fmt: skip
SQUASHED = 192
"""The side of the square on which legibility is reckoned: what the seedling saw until it was enlarged."""


@lru_cache(maxsize=1024)
def font(name: str | None, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if name is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


def text(rng: np.random.Generator) -> str:
    """3-6, seldom up to 8 signs: letters in most, digits in some, both in the rest."""
    length = int(rng.choice([3, 4, 5, 6, 7, 8], p=[0.2, 0.28, 0.26, 0.18, 0.05, 0.03]))
    kind = rng.random()
    alphabet = LETTERS if kind < 0.6 else DIGITS if kind < 0.75 else LETTERS + DIGITS
    return "".join(alphabet[int(i)] for i in rng.integers(len(alphabet), size=length))


@dataclass(frozen=True)
class Lettering:
    """A word laid out, not yet placed: `ink` an L mask of its own tight box, `angle` degrees anticlockwise."""

    text: str
    ink: Image.Image
    angle: float
    pad: int
    """Pixels around the ink that a plate covers, 0 without a plate."""
    stops: tuple[float, ...] = ()
    """As `Word` has them."""

    def corners(self, pad: float = 0) -> np.ndarray:
        """(4, 2) corners clockwise from the text's top left, about the centre of the ink."""
        w, h = self.ink.width / 2 + pad, self.ink.height / 2 + pad
        turn = np.deg2rad(self.angle)
        points = np.array([[-w, -h], [w, -h], [w, h], [-w, h]])
        return points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def lettering(rng: np.random.Generator, canvas: tuple[int, int]) -> Lettering:
    """A random word whose letters are 7.5-19 pixels wide on average once the canvas (width, height) is squashed, and at
    least 8 high; longer words get narrower letters, and lose letters when they cannot fit."""
    width, height = canvas
    content = text(rng)
    name = FONTS[int(rng.integers(len(FONTS)))]
    wanted = rng.uniform(7.5, min(19.0, 0.8 * SQUASHED / len(content))) * width / SQUASHED
    reference = font(name, 64)
    while True:
        left, top, right, bottom = reference.getbbox(content)
        size = max(wanted * len(content) / (right - left), 8.5 * height / SQUASHED / (bottom - top)) * 64
        if size / 64 * (right - left) <= 0.9 * width or len(content) == 3:
            break
        content = content[:-1]
    chosen = font(name, max(8, round(size)))
    left, top, right, bottom = (round(v) for v in chosen.getbbox(content))
    sheet = Image.new("L", (right - left + 8, bottom - top + 8), 0)
    ImageDraw.Draw(sheet).text((4 - left, 4 - top), content, fill=255, font=chosen)
    tight = sheet.point(lambda v: 255 * (v > 100)).getbbox()
    ink = sheet.crop(tight)
    begin = (tight[0] if tight else 0) - 4 + left  # of the ink, from where the pen was set down
    stops = tuple((chosen.getlength(content[:k]) - begin) / ink.width for k in range(1, len(content)))
    angle = 0.0 if rng.random() < 0.65 else float(rng.uniform(-15, 15))
    pad = round(ink.height * rng.uniform(0.15, 0.5)) if rng.random() < 0.35 else 0
    return Lettering(content, ink, angle, pad, stops)


def paint(rng: np.random.Generator, picture: Image.Image, item: Lettering, centre: tuple[float, float]) -> Word:
    """Draw the word about `centre` on the RGB picture, in place; a busy ground gets a plate."""
    around = item.corners(max(item.pad, 2)) + centre
    x1, y1 = np.floor(around.min(axis=0)).astype(int)
    x2, y2 = np.ceil(around.max(axis=0)).astype(int)
    under = np.asarray(picture.crop((int(x1), int(y1), int(x2), int(y2))).resize((16, 8), Image.Resampling.BOX))
    ground = under.reshape(-1, 3).mean(axis=0)
    pad = item.pad or (2 if under.std(axis=(0, 1)).max() > 22 else 0)
    if pad:
        plate = colors.pick_random_color(rng)
        points = [(float(x), float(y)) for x, y in item.corners(pad) + centre]
        ImageDraw.Draw(picture).polygon(points, fill=plate)
        ground = np.array(plate, np.float64)
    ink = item.ink if item.angle == 0 else item.ink.rotate(item.angle, Image.Resampling.BICUBIC, expand=True)
    at = (round(centre[0] - ink.width / 2), round(centre[1] - ink.height / 2))
    picture.paste(colors.pick_contrasting_color(rng, ground), at, ink)
    corners = item.corners() + np.array([at[0] + ink.width / 2, at[1] + ink.height / 2])
    low, high = corners.min(axis=0), corners.max(axis=0)
    quad = tuple(float(v) for v in corners.ravel())
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Word(item.text, quad, box, item.stops)  # type: ignore[arg-type]
