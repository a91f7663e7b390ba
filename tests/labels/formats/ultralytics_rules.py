"""Loads a dataset as Ultralytics 8 does before it trains: `check_det_dataset`, `get_img_files`, `verify_image_label`.

Written after ultralytics/data/utils.py and base.py, without their code. What Ultralytics drops or refuses fails here.
"""

import glob
import os
from collections.abc import Iterator
from pathlib import Path

import yaml
from PIL import Image

# Of the versions 8.0 to 8.3 and later, what all read.
SUFFIXES = {"bmp", "dng", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
Rows = list[tuple[str, list[float]]]


def load(data_file: Path, split: str = "train") -> Iterator[tuple[Path, Rows]]:
    """Yields the path of each image of a split, with the class names and fractions of its labels."""
    data = yaml.safe_load(data_file.read_text(encoding="utf-8"))
    assert {"train", "val", "names"} <= data.keys()
    names = data["names"] if isinstance(data["names"], dict) else dict(enumerate(data["names"]))
    assert sorted(names) == list(range(len(names)))
    assert all(isinstance(name, str) for name in names.values())
    root = Path(data.get("path") or data_file.parent)
    assert (root / data["val"]).resolve().exists()
    folder = (root / data[split]).resolve()
    found = glob.glob(os.path.join(folder, "**", "*.*"), recursive=True)  # noqa: PTH118, PTH207 - as Ultralytics does
    files = sorted(path for path in found if path.rpartition(".")[2].lower() in SUFFIXES)
    assert files, f"no images found in {folder}"
    for path in files:
        side = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
        labels = Path(side[1].join(path.rsplit(side[0], 1)).rsplit(".", 1)[0] + ".txt")
        yield Path(path), list(_read_labels(Path(path), labels, names))


def _read_labels(path: Path, labels: Path, names: dict[int, str]) -> Iterator[tuple[str, list[float]]]:
    with Image.open(path) as image:
        image.verify()
        assert min(image.size) > 9
        assert str(image.format).lower() in SUFFIXES
    assert labels.is_file(), f"{path} has no labels"
    lines = [line.split() for line in labels.read_text(encoding="utf-8").strip().splitlines() if line]
    assert len({tuple(line) for line in lines}) == len(lines), "repeated rows are dropped"
    are_outlines = any(len(line) > 6 for line in lines)
    for number, *values in lines:
        fractions = [float(value) for value in values]
        assert (len(fractions) % 2 == 0 and len(fractions) >= 6) if are_outlines else len(fractions) == 4
        assert all(0 <= value <= 1 for value in fractions)
        yield names[int(number)], fractions
