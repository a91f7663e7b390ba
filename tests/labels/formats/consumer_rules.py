"""Reads exports as the tools of each format do, by the rules of their documentation, without florist's readers.

Each function yields the file of an image with its labels: (kind, class or text, coordinates). What a tool finds by the
names of files is found by the names of files here too.
"""

import csv
import json
import os
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

Label = tuple[str, str, list[float]]
Read = Callable[[Path], Iterator[tuple[Path, list[Label]]]]
# Ultralytics, data/utils.py
_ULTRALYTICS = {"avif", "bmp", "dng", "heic", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}


def read_yolo(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """Ultralytics: images below the folder, and for each the label file where its last /images/ is /labels/."""
    data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    for path in sorted((folder / data["train"]).rglob("*.*")):
        if path.name.rpartition(".")[2].lower() not in _ULTRALYTICS or any(p[0] == "." for p in path.parts[-9:]):
            continue
        width, height = _measure(path)
        sides = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
        labels = Path(sides[1].join(str(path).rsplit(sides[0], 1)).rsplit(".", 1)[0] + ".txt")
        found = list[Label]()
        for line in labels.read_text(encoding="utf-8").splitlines() if labels.exists() else ():
            number, *values = line.split()
            numbers = [float(v) * (height if i % 2 else width) for i, v in enumerate(values)]
            name = data["names"][int(number)]
            assert isinstance(name, str)
            if len(numbers) == 4:
                x, y, w, h = numbers
                found.append(("box", name, [x - w / 2, y - h / 2, x + w / 2, y + h / 2]))
            else:
                found.append(("polygon", name, numbers))
        yield path, found


def read_voc(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """The VOC development kit: a line of the image set is the name of the XML file, which names the image."""
    for line in (folder / "ImageSets/Main/default.txt").read_text(encoding="utf-8").split("\n"):
        if not line.strip():
            continue
        root = ET.parse(folder / "Annotations" / f"{line.strip()}.xml").getroot()
        path = folder / "JPEGImages" / (root.findtext("filename") or "")
        assert path.with_suffix("").relative_to(folder / "JPEGImages").as_posix() == line.strip()
        found = list[Label]()
        for element in root.iterfind("object"):
            corners = [float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            found.append(
                ("box", element.findtext("name") or "", [corners[0] - 1, corners[1] - 1, corners[2], corners[3]])
            )
        yield path, found


def read_labelme(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """LabelMe opens the image that `imagePath` names, and the JSON file with the name of an image."""
    for file in sorted(folder.rglob("*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        path = file.parent / document["imagePath"]
        assert Path(str(path).rpartition(".")[0] + ".json") == file
        rings: dict[object, Label] = {}
        for position, shape in enumerate(document["shapes"]):
            points = [value for point in shape["points"] for value in point]
            kind = "box" if shape["shape_type"] == "rectangle" else "polygon"
            words = (shape["description"] or "").partition("\n")[0]
            if shape["label"] == "text" and words:
                kind, shape["label"] = "quad", words
            key = position if shape["group_id"] is None else ("group", shape["group_id"])
            rings.setdefault(key, (kind, shape["label"], []))[2].extend(points)
        captions = document.get("description", "").splitlines()  # as X-AnyLabeling has it
        yield path, [*rings.values(), *(("text", caption, list[float]()) for caption in captions)]


def read_coco(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """pycocotools: annotations by `image_id`, categories by `category_id`."""
    files = [folder / f"annotations/{kind}_default.json" for kind in ("instances", "captions", "words")]
    assert files[0].exists()
    parts = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    assert all(part["annotations"] for part in parts[1:])
    names = {category["id"]: category["name"] for category in parts[0]["categories"]}
    for image in parts[0]["images"]:
        found = list[Label]()
        for entry in (e for part in parts for e in part["annotations"] if e["image_id"] == image["id"]):
            if "caption" in entry:
                found.append(("text", entry["caption"], []))
                continue
            points = [value for ring in entry["segmentation"] for value in ring]
            x, y, width, height = entry["bbox"]
            if "text" in entry:
                found.append(("quad", entry["text"], points))
            else:
                box = [x, y, x + width, y + height]
                found.append(("polygon" if points else "box", names[entry["category_id"]], points or box))
        yield folder / "images" / image["file_name"], found


def read_cvat(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """CVAT: an element for each image, by its name."""
    for image in ET.parse(folder / "annotations.xml").getroot().iterfind("image"):
        groups: dict[object, Label] = {}
        for position, element in enumerate(image):
            text = next((a.text or "" for a in element.iterfind("attribute") if a.get("name") == "text"), None)
            if element.tag == "box":
                kind, points = "box", [float(element.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr")]
            elif element.tag == "tag":
                kind, points = "text", []
            else:
                kind = "polygon" if text is None else "quad"
                points = [float(v) for pair in element.attrib["points"].split(";") for v in pair.split(",")]
            key = ("group", element.get("group_id")) if element.get("group_id") else position
            groups.setdefault(key, (kind, element.attrib["label"] if text is None else text, []))[2].extend(points)
        yield folder / "images" / image.attrib["name"], list(groups.values())


def read_label_studio(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """Label Studio: local files are served by their percent-encoded path below the document root."""
    for task in json.loads((folder / "tasks.json").read_text("utf-8")):
        address = urllib.parse.urlsplit(task["data"]["image"])
        path = folder / urllib.parse.parse_qs(address.query, strict_parsing=True)["d"][0]
        regions: dict[str, Label] = {}
        for result in task["predictions"][0]["result"]:
            value, key = result["value"], "-".join(result["id"].split("-")[:2])
            scale = (result["original_width"] / 100, result["original_height"] / 100)
            kind, points = "text", list[float]()
            if result["type"] == "rectanglelabels":
                x, y = value["x"], value["y"]
                kind, points = "box", [x, y, x + value["width"], y + value["height"]]
            elif "points" in value:
                kind, points = "polygon", [v for point in value["points"] for v in point]
            points = [v * scale[i % 2] for i, v in enumerate(points)]
            if result["id"].startswith("region-") or result["from_name"].startswith("attribute_"):
                continue
            if "text" in value:
                regions[key] = ("quad" if points else "text", value["text"][0], points)
            else:
                name = next(value[k][0] for k in ("rectanglelabels", "polygonlabels") if k in value)
                regions.setdefault(key, (kind, name, []))[2].extend(points)
        yield path, list(regions.values())


def read_huggingface(folder: Path) -> Iterator[tuple[Path, list[Label]]]:
    """`datasets` imagefolder: `file_name` is relative to metadata.jsonl."""
    for line in (folder / "metadata.jsonl").read_text("utf-8").split("\n")[:-1]:
        row = json.loads(line)
        found = [("text", caption["text"], list[float]()) for caption in row["captions"]]
        for each in row["objects"]:
            points = [v for ring in each["polygons"] for v in ring] or each["box"]
            found.append((each["kind"], each["category"], points))
        for each in row["words"]:
            found.append(("quad", each["text"], each["polygons"][0]))
        yield folder / row["file_name"], found


def read_renamed(folder: Path) -> dict[str, str]:
    """Returns the new names by the old ones, as `renamed.csv` lists them."""
    if not (folder / "renamed.csv").exists():
        return {}
    with (folder / "renamed.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "new_name"]
    return dict(rows[1:])


def _measure(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.size


READERS: dict[str, Read] = {
    "yolo-detect": read_yolo,
    "yolo-segment": read_yolo,
    "voc": read_voc,
    "labelme": read_labelme,
    "coco": read_coco,
    "cvat": read_cvat,
    "label-studio": read_label_studio,
    "huggingface": read_huggingface,
}
