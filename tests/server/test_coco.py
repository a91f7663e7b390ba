import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from server.coco import Coco


def test_each_kind_of_annotation() -> None:
    coco = Coco("test")
    notes = [
        Box(label="cat", score=0.5, box=(1, 2, 11, 22)),
        Quad(label="STOP", score=0.25, quad=(0, 0, 4, 0, 4, 2, 0, 2)),
        Polygon(label="cat", polygons=[[0, 0, 2, 0, 2, 2], [10, 10, 12, 10, 12, 12, 10, 12]]),
        Box(label="", box=(0, 0, 1, 1)),
        Text(label="a cat", score=0.9),
    ]
    coco.add("a.png", (100, 50), notes)
    coco.add("b.png", (10, 10), [])
    document = coco.document()
    assert [c["name"] for c in document["categories"]] == ["cat", "text", "object"]
    box, quad, polygon, bare, text = document["annotations"]
    assert (box["bbox"], box["area"], box["score"], box["category_id"]) == ([1, 2, 10, 20], 200, 0.5, 1)
    assert box["segmentation"] == [[1, 2, 11, 2, 11, 22, 1, 22]]
    assert (quad["text"], quad["bbox"], quad["area"]) == ("STOP", [0, 0, 4, 2], 8)
    assert (polygon["bbox"], polygon["area"], polygon["category_id"]) == ([0, 0, 12, 12], 6, 1)
    assert "score" not in polygon
    assert bare["category_id"] == 3
    assert (text["caption"], "bbox" in text) == ("a cat", False)
    assert [i["id"] for i in document["images"]] == [1, 2]
    assert [a["id"] for a in document["annotations"]] == [1, 2, 3, 4, 5]


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text("old")
    coco = Coco("test")
    coco.images.append({"broken": object()})
    with pytest.raises(TypeError):
        coco.write(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["annotations.json"]
    Coco("Größe").write(path)
    assert json.loads(path.read_text(encoding="utf-8"))["info"]["description"] == "Größe"


SHAPE, CAPTION = Box(label="cat", score=0.5, box=(1, 2, 11, 22)), Text(label="a cat", score=0.5)


@pytest.mark.parametrize("notes", [[CAPTION], [SHAPE], []], ids=["captions", "shapes", "nothing"])
def test_pycocotools_reads_it(tmp_path: Path, notes: list[Annotation]) -> None:
    written = Coco("test")
    written.add("a.png", (30, 40), notes)
    written.write(tmp_path / "annotations.json")
    read = COCO(tmp_path / "annotations.json")
    assert [i["file_name"] for i in read.loadImgs(read.getImgIds())] == ["a.png"]
    assert len(read.loadAnns(read.getAnnIds())) == len(notes)
