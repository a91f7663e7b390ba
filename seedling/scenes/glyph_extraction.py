"""Extracts the committed glyph files `glyphs/<set>.json` from Iconify's emoji packages.

Run it again only to change the choice of glyphs:

    npm pack @iconify-json/{noto,noto-v1,twemoji,fluent-emoji-flat,fxemoji,emojione,streamline-emojis,openmoji}
    python -m seedling.scenes.glyph_extraction FOLDER_WITH_THE_PACKAGES

An Iconify package holds `package/icons.json` (name → SVG body, with a default width and height) and
`package/info.json` (author and license). A category takes only glyphs that people name with exactly that word, from
the same few concepts in every set. Sets thus differ in style, not in subject.
"""

import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

# Category → glyph names as most sets use them (Unicode short names).
CONCEPTS: dict[str, tuple[str, ...]] = {
    "cat": ("cat", "cat-face"),
    "dog": ("dog", "dog-face"),
    "bird": ("bird", "dove"),
    "fish": ("fish", "tropical-fish"),
    "horse": ("horse", "horse-face"),
    "cow": ("cow", "cow-face"),
    "elephant": ("elephant",),
    "car": ("automobile", "sport-utility-vehicle"),
    "bus": ("bus", "trolleybus"),
    "bicycle": ("bicycle",),
    "boat": ("sailboat", "speedboat", "motor-boat"),
    "airplane": ("airplane", "small-airplane"),
    "train": ("locomotive", "high-speed-train", "bullet-train"),
    "rocket": ("rocket",),
    "tree": ("deciduous-tree", "evergreen-tree", "palm-tree"),
    "flower": ("blossom", "hibiscus", "tulip"),
    "house": ("house", "house-with-garden"),
    "ball": ("soccer-ball", "basketball", "volleyball"),
    "chair": ("chair", "seat"),
    "clock": ("alarm-clock", "mantelpiece-clock", "four-oclock"),
    "umbrella": ("umbrella", "umbrella-on-ground"),
    "book": ("closed-book", "open-book", "blue-book"),
    "bottle": ("bottle-with-popping-cork", "baby-bottle"),
    "cup": ("hot-beverage", "teacup-without-handle", "cup-with-straw"),
    "pizza": ("pizza",),
    "apple": ("red-apple", "green-apple"),
    "banana": ("banana",),
    "cake": ("birthday-cake", "shortcake"),
    "key": ("key", "old-key"),
    "phone": ("mobile-phone", "telephone"),
    "balloon": ("balloon",),
    "guitar": ("guitar",),
    "star": ("star", "glowing-star"),
    "hat": ("top-hat", "womans-hat"),
    "shoe": ("mans-shoe", "running-shoe", "high-heeled-shoe"),
    "backpack": ("backpack",),
    "lamp": ("light-bulb",),
    "bell": ("bell",),
    "donut": ("doughnut",),
    "carrot": ("carrot",),
}

# Sets with other names for the same concepts: concept → names in that set.
OWN_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "fxemoji": {
        "cat": ("catside",),
        "cat-face": ("cat",),
        "dog": ("dogside",),
        "dog-face": ("dog",),
        "dove": ("doveofpeace",),
        "tropical-fish": ("tropicalfish",),
        "horse-face": ("horseface",),
        "cow-face": ("cowface",),
        "locomotive": ("steamlocomotive",),
        "high-speed-train": ("highspeedtrain",),
        "bullet-train": ("highspeedtrainbulletnose",),
        "deciduous-tree": ("deciduoustree",),
        "evergreen-tree": ("evergreen",),
        "palm-tree": ("palmtree",),
        "house": ("housebuilding",),
        "house-with-garden": ("housewithgarden",),
        "soccer-ball": ("soccerball",),
        "alarm-clock": ("alarmclock",),
        "mantelpiece-clock": ("manltepiececlock",),
        "four-oclock": ("clock4oclock",),
        "umbrella-on-ground": ("beachumbrella",),
        "closed-book": ("closedbook",),
        "open-book": ("openbook",),
        "blue-book": ("bluebook",),
        "baby-bottle": ("babybottle",),
        "hot-beverage": ("hotbeverage",),
        "teacup-without-handle": ("teacupwithouthandle",),
        "pizza": ("sliceofpizza",),
        "red-apple": ("redapple",),
        "green-apple": ("greenapple",),
        "birthday-cake": ("birthdaycake",),
        "old-key": ("oldkey",),
        "mobile-phone": ("cellphone",),
        "telephone": ("blacktelephone",),
        "glowing-star": ("whitemediumstar",),
        "top-hat": ("tophat",),
        "womans-hat": ("womanshat",),
        "mans-shoe": ("mensshoe",),
        "running-shoe": ("runningshoe",),
        "high-heeled-shoe": ("heels",),
        "backpack": ("schoolsatchel",),
        "light-bulb": ("lightbulb",),
    },
    "streamline-emojis": {
        "bird": ("bird-1", "bird-2"),
        "hot-beverage": ("hot-beverage-1", "hot-beverage-2"),
        "pizza": ("pizza-1", "pizza-2"),
        "birthday-cake": ("birthday-cake-1", "birthday-cake-2", "birthday-cake-3"),
        "shortcake": ("shortcake-1",),
        "doughnut": ("doughnut-1", "doughnut-2"),
        "backpack": ("school-backpack",),
    },
}

# Rejected after a look: two objects in one image, confetti, half an object, or hardly visible.
REJECTED = frozenset(
    """
    emojione/basketball emojione/fish emojione/speedboat emojione/volleyball
    fluent-emoji-flat/bird fluent-emoji-flat/mans-shoe
    fxemoji/beachumbrella fxemoji/doveofpeace fxemoji/housewithgarden fxemoji/sailboat fxemoji/umbrella
    fxemoji/whitemediumstar
    noto-v1/basketball noto-v1/house-with-garden
    openmoji/blue-book openmoji/house-with-garden openmoji/motor-boat
    streamline-emojis/bottle-with-popping-cork streamline-emojis/guitar streamline-emojis/rocket
    streamline-emojis/telephone
    twemoji/motor-boat
    """.split()  # noqa: SIM905
)

MAX_SVG_LENGTH = 24_000
"""Characters of SVG. Longer glyphs are left out: their details are lost at 50 pixels anyway."""


def to_svg(icons: dict[str, Any], name: str) -> str:
    """Returns the SVG document of one icon, numbers rounded to two decimals (0.5 % of a pixel when drawn)."""
    icon = icons["icons"][name]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    body = re.sub(r"(\.\d\d)\d+(?!\d*[%e])", r"\1", icon["body"])
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{body}</svg>'  # noqa: E501


def extract_glyphs(package: Path) -> tuple[str, dict[str, Any]]:
    """Returns (set name, contents of its glyph file) of one npm package of Iconify."""
    with tarfile.open(package) as archive:
        icons, info, meta = (
            json.load(archive.extractfile(f"package/{name}.json"))  # type: ignore[arg-type]
            for name in ("icons", "info", "package")
        )
    prefix = icons["prefix"]
    chosen: dict[str, list[dict[str, str]]] = {}
    for category, concepts in CONCEPTS.items():
        glyphs = []
        for concept in concepts:
            for name in OWN_NAMES.get(prefix, {}).get(concept, (concept,)):
                if name not in icons["icons"] or f"{prefix}/{name}" in REJECTED:
                    continue
                text = to_svg(icons, name)
                if len(text) <= MAX_SVG_LENGTH:
                    glyphs.append({"name": name, "svg": text})
        if glyphs:
            chosen[category] = glyphs
    return prefix, {
        "license": info["license"]["spdx"],
        "source": f"{info['name']} by {info['author']['name']}, {info['author']['url']}; "
        f"by way of {meta['name']} {meta['version']}",
        "icons": chosen,
    }


def main(folder: Path) -> None:
    """Writes the glyph file of every package in the folder and prints the missing categories."""
    for package in sorted(folder.glob("*.tgz")):
        prefix, contents = extract_glyphs(package)
        target = Path(__file__).parent / "glyphs" / f"{prefix}.json"
        target.write_text(json.dumps(contents, indent=0, ensure_ascii=False) + "\n")
        missing = [c for c in CONCEPTS if c not in contents["icons"]]
        count = sum(map(len, contents["icons"].values()))
        print(f"{prefix}: {count} glyphs, {target.stat().st_size} bytes, missing: {missing}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
