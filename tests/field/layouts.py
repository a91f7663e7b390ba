"""Small datasets for situations about files and folders. Each image has a size of its own and one object, a cat."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from labels.opening import open_dataset
from server.jobs.sources import SourceImageError, open_source

BOX = (20.0, 10.0, 80.0, 60.0)
SIZE = (200, 100)
LINE = "0 0.25 0.35 0.3 0.5\n"


def write(path: Path, content: Any = None, color: int = 0) -> Path:
    """Writes text, JSON, or an image of a color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.new("RGB", SIZE, (color, 0, 0)).save(path, "JPEG" if path.suffix.lower() != ".png" else "PNG")
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def make_coco(*names: str) -> dict[str, Any]:
    return {
        "images": [{"id": n, "file_name": name, "width": 200, "height": 100} for n, name in enumerate(names, 1)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [20, 10, 60, 50], "area": 3000, "iscrowd": 0}
            for n in range(1, len(names) + 1)
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }


def make_voc(filename: str, **more: str) -> str:
    texts = "".join(f"<{key}>{value}</{key}>" for key, value in more.items())
    return f"""<annotation>{texts}<filename>{filename}</filename><size><width>200</width><height>100</height></size>
<object><name>cat</name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>80</xmax><ymax>60</ymax></bndbox></object>
</annotation>"""


def make_labelme(path: str) -> dict[str, Any]:
    shape = {"label": "cat", "points": [[20, 10], [80, 60]], "shape_type": "rectangle", "group_id": None, "flags": {}}
    return {"version": "5.4.1", "flags": {}, "shapes": [shape], "imagePath": path, "imageData": None,
            "imageHeight": 100, "imageWidth": 200}  # fmt: skip


def make_cvat(*images: tuple[str, str]) -> str:
    """`images` are names and subsets."""
    lines = "".join(
        f'<image id="{n}" name="{name}" {f"subset={chr(34)}{subset}{chr(34)}" if subset else ""} width="200" '
        f'height="100"><box label="cat" xtl="20" ytl="10" xbr="80" ybr="60"/></image>\n'
        for n, (name, subset) in enumerate(images)
    )
    return f"<annotations><version>1.1</version>\n{lines}</annotations>"


def make_row(name: str) -> str:
    label = {"annotation": {"kind": "box", "label": "cat", "box": BOX}}
    return json.dumps({"name": name, "width": 200, "height": 100, "labels": [label]}) + "\n"


def read_colors(path: Path) -> dict[str, int]:
    """Returns the color of each labeled image of a dataset, by name. Checks that it has its box."""
    colors = {}
    for image in open_dataset(path).images:
        (box,) = image.annotations
        assert box.label == "cat"
        assert [round(v, 3) for v in getattr(box, "box", ())] == list(BOX)
        colors[image.name] = round(image.open().getpixel((5, 5))[0] / 10)  # type: ignore[index]
    return colors


def read_reasons(path: Path) -> dict[str, str]:
    """Returns why entries of a dataset cannot be used, by their source."""
    return {entry.source: entry.reason for entry in open_dataset(path).unusable}


def read_source(path: Path, **options: Any) -> dict[str, bytes | str]:
    """Returns the images of a job source: their bytes, or why there are none."""
    content: dict[str, bytes | str] = {}
    for image in open_source(str(path), **options):
        try:
            content[image.name] = image.read()
        except SourceImageError as error:
            content[image.name] = str(error)
    return content
