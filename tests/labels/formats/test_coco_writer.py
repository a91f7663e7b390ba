import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from labels.labeled_image import LabeledImage
from prompts.annotations import Box, Polygon, Quad, Text
from tests.labels.samples import (
    PNG,
    boxes,
    captions,
    category,
    datasets,
    example,
    export,
    near,
    polygons,
    quads,
    some,
)


def outlines(note: Box | Quad | Polygon) -> list[tuple[float, ...]]:
    if isinstance(note, Box):
        x1, y1, x2, y2 = note.box
        return [near([x1, y1, x2, y1, x2, y2, x1, y2])]
    return [near(note.quad)] if isinstance(note, Quad) else [near(ring) for ring in note.polygons]


@some
@given(datasets(st.one_of(boxes(), quads(), polygons(), captions())))
def test_pycocotools_reads_every_label(pictures: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = export("coco", pictures, Path(folder, "out"))
        shapes = COCO(Path(folder, "out/annotations/instances_default.json"))
        texts = COCO(Path(folder, "out/annotations/captions_default.json"))
        images = shapes.loadImgs(shapes.getImgIds())
        assert [image["file_name"] for image in images] == [image["file_name"] for image in texts.dataset["images"]]
        for picture, image in zip(pictures, images, strict=True):
            assert Path(folder, "out/images", image["file_name"]).read_bytes() == PNG
            assert (image["width"], image["height"]) == (picture.width, picture.height)
            said = [
                (
                    shapes.cats[a["category_id"]]["name"],
                    a.get("text"),
                    a.get("score"),
                    [near(r) for r in a["segmentation"]],
                )
                for a in shapes.loadAnns(shapes.getAnnIds(imgIds=image["id"]))
            ]
            notes = [label.annotation for label in picture.traces]
            assert said == [
                (category(n), n.label if isinstance(n, Quad) else None, n.score, outlines(n))
                for n in notes
                if not isinstance(n, Text)
            ]
            spoken = [(a["caption"], a.get("score")) for a in texts.loadAnns(texts.getAnnIds(imgIds=image["id"]))]
            assert spoken == [(n.label, n.score) for n in notes if isinstance(n, Text)]
    assert report.annotations == sum(len(picture.traces) for picture in pictures)


def test_pycocotools_draws_masks_and_boxes(tmp_path: Path) -> None:
    export("coco", example(), tmp_path / "out")
    read = COCO(tmp_path / "out/annotations/instances_default.json")
    box, quad, polygon, bare = read.loadAnns(read.getAnnIds())
    assert (box["bbox"], box["area"]) == ([1, 2, 10, 20], 200)
    assert read.annToMask(box).sum() == 200
    assert (quad["bbox"], quad["area"]) == ([0, 0, 4, 2], 8)
    assert (polygon["bbox"], polygon["area"]) == ([0, 0, 12, 12], 6)
    assert bare["bbox"] == [0, 0, 1, 1]
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == ["cat", "text", "object"]


def test_names_are_kept_where_pictures_are_not_copied(tmp_path: Path) -> None:
    name = 'a/"b"\nc.png'
    export("coco", [LabeledImage.from_traces(name, 4, 4, sha256="0")], tmp_path / "out", copy_images=False)
    read = COCO(tmp_path / "out/annotations/instances_default.json")
    assert [image["file_name"] for image in read.dataset["images"]] == [name]
