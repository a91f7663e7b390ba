"""What annotations of the field mean: outlines, crowds, ids, regions, names of classes."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools import mask as coco_masks

from tests.field.annotation_files import Folder, describe, list_reasons, list_tasks, make_coco

BOX = {"bbox": [20, 10, 60, 50]}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def make_mask(*, compressed: bool | None) -> dict[str, Any]:
    """Returns the mask of a box (30, 20, 90, 60)."""
    ring = [[30, 20, 90, 20, 90, 60, 30, 60]]
    encoded = coco_masks.merge(coco_masks.frPyObjects(ring, 100, 200))
    if compressed is None:  # the text of bytes
        return {"size": [100, 200], "counts": str(encoded["counts"])}
    if compressed:
        return {"size": [100, 200], "counts": encoded["counts"].decode()}
    pixels = coco_masks.decode(encoded).ravel(order="F").tolist()
    counts, value = [0], 0
    for pixel in pixels:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [100, 200], "counts": counts}


@pytest.mark.situation("R2", "masks that CVAT marks iscrowd 1, with and without polygons beside them")
@pytest.mark.parametrize("compressed", [True, False, None])
@pytest.mark.parametrize("others", [True, False])
def test_masks_of_cvat_are_objects(folder: Folder, compressed: bool | None, others: bool) -> None:
    attributes = {"attributes": {"occluded": False}}
    mask = {"segmentation": make_mask(compressed=compressed), "iscrowd": 1, "bbox": [30, 20, 60, 40], **attributes}
    polygon = {"bbox": [1, 1, 30, 30], "segmentation": [[1, 1, 31, 1, 31, 31]], **attributes}
    folder.add_images("images/default/a.jpg").add("annotations/instances_default.json", make_coco(mask, polygon)
        if others else make_coco(mask))  # fmt: skip
    dataset = folder.read()
    (found,) = describe(dataset).values()
    assert found == [("polygon", "cat", 30, 20, 90, 60), ("polygon", "cat", 1, 1, 31, 31)][: 1 + others]
    assert dataset.unusable == ()
    assert list_tasks(dataset, dataset.images[0].name) == {"<OD>"}


@pytest.mark.situation("R2", "masks of a tool that marks all of them iscrowd 1, without CVAT's attributes")
def test_a_file_of_marked_masks_only_has_objects(folder: Folder) -> None:
    mask = {"segmentation": make_mask(compressed=True), "iscrowd": 1, "bbox": [30, 20, 60, 40]}
    folder.add_images("a.jpg", "b.jpg")
    folder.add("coco.json", make_coco(mask, {**mask, "image_id": 2}, images=("a.jpg", "b.jpg")))
    found = [("polygon", "cat", 30, 20, 90, 60)]
    assert describe(folder.read()) == {"a.jpg": found, "b.jpg": found}
    # One mask alone is no evidence of what the tool marks.
    with pytest.raises(ValueError, match="annotation 1: it is a crowd"):
        folder.add("coco.json", make_coco(mask)).read()


@pytest.mark.situation("R2", "a real crowd beside objects, as in COCO, and one that CVAT was given")
@pytest.mark.parametrize(
    "more",
    [
        {"segmentation": make_mask(compressed=False)},
        {"segmentation": make_mask(compressed=True), "attributes": {"occluded": False, "is_crowd": True}},
        {"segmentation": [[30, 20, 90, 20, 90, 60]], "attributes": {"occluded": False}},
        {},
    ],
    ids=["COCO", "CVAT", "polygon", "box"],
)
def test_a_crowd_is_refused_and_its_image_teaches_no_detection(folder: Folder, more: dict[str, Any]) -> None:
    crowd = {"iscrowd": 1, "bbox": [30, 20, 60, 40], **more}
    document = make_coco(BOX, crowd, {**BOX, "image_id": 2}, images=("a.jpg", "b.jpg"))
    dataset = folder.add_images("a.jpg", "b.jpg").add("coco.json", document).read()
    assert describe(dataset)["a.jpg"] == [("box", "cat", 20, 10, 80, 60)]
    assert "annotation 2: it is a crowd" in list_reasons(dataset)
    assert (list_tasks(dataset, "a.jpg"), list_tasks(dataset, "b.jpg")) == (set(), {"<OD>"})


@pytest.mark.situation("R11", "outlines as tools write them, and outlines that cannot be used")
@pytest.mark.parametrize(
    ("entry", "expected", "reason"),
    [
        ({**BOX, "segmentation": [20, 10, 80, 10, 70, 60]}, ("polygon", 20, 10, 80, 60), ""),
        ({**BOX, "segmentation": [[[20, 10], [80, 10], [70, 60]]]}, ("polygon", 20, 10, 80, 60), ""),
        ({**BOX, "segmentation": [[20, 10], [80, 10], [70, 60]]}, ("polygon", 20, 10, 80, 60), ""),
        ({**BOX, "segmentation": [[20, 10, 80, 60]]}, ("box", 20, 10, 80, 60), "only its box is used"),
        ({**BOX, "segmentation": [[20, 10, 80, 10, 70]]}, ("box", 20, 10, 80, 60), "an x without its y"),
        ({**BOX, "segmentation": [[20, 10, 50, 10, 80, 10]]}, ("box", 20, 10, 80, 60), "no area"),
        ({**BOX, "segmentation": [[20, 10, 80, 10, 70, 60], [1, 2]]}, ("polygon", 20, 10, 80, 60), "other rings"),
        ({**BOX, "segmentation": "none"}, ("box", 20, 10, 80, 60), "only its box is used"),
        ({**BOX, "segmentation": None}, ("box", 20, 10, 80, 60), ""),
        ({**BOX, "segmentation": [[]]}, ("box", 20, 10, 80, 60), ""),
        ({"segmentation": [[20, 10, 80, 10, 70, 60]]}, ("polygon", 20, 10, 80, 60), ""),
        ({"bbox": [], "segmentation": [[20, 10, 80, 10, 70, 60]]}, ("polygon", 20, 10, 80, 60), ""),
        ({"bbox": [80, 10, -60, 50], "segmentation": [[20, 10, 80, 10, 70, 60]]}, ("polygon", 20, 10, 80, 60), ""),
        ({"bbox": [80, 10, -60, 50], "segmentation": []}, None, "negative side"),
        (
            {"bbox": [50, 20, 60, 20], "attributes": {"occluded": False, "rotation": 90.0}},
            ("polygon", 70, 0, 90, 60),
            "",
        ),
    ],
)  # fmt: skip
def test_outlines(folder: Folder, entry: dict[str, Any], expected: Any, reason: str) -> None:
    document = make_coco(entry, {"bbox": [1, 1, 9, 9], "category_id": 2})
    dataset = folder.add_images("a.jpg").add("coco.json", document).read()
    found = [(kind, *box) for kind, label, *box in describe(dataset)["a.jpg"] if label == "cat"]
    assert found == ([expected] if expected else [])
    assert reason in list_reasons(dataset)
    assert len(dataset.unusable) == bool(reason)
    assert list_tasks(dataset, "a.jpg") == ({"<OD>"} if expected else set())


@pytest.mark.situation("R11", "ids that are text in one list and numbers, or floats, in another")
@pytest.mark.parametrize("ids", [(1, "1", 1.0), ("1", 1, "1.0"), (1.0, 1.0, "1"), ("a-1", "a-1", "a-1")])
def test_ids_compare_as_numbers(folder: Folder, ids: tuple[Any, Any, Any]) -> None:
    document = make_coco({**BOX, "image_id": ids[1], "category_id": ids[2]})
    document["images"][0]["id"] = ids[0]
    document["categories"] = [{"id": ids[0], "name": "cat"}]
    dataset = folder.add_images("a.jpg").add("coco.json", document).read()
    assert describe(dataset) == {"a.jpg": [("box", "cat", 20, 10, 80, 60)]}
    assert dataset.unusable == ()


@pytest.mark.situation("S7", "two files under one id: whose labels they are is unknown")
def test_an_id_of_two_images_is_nobodys(folder: Folder) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}, {"id": 2, "file_name": "c.jpg"}]
    document = make_coco(BOX, {**BOX, "image_id": 2}, images=images)
    dataset = folder.add_images("a.jpg", "b.jpg", "c.jpg").add("coco.json", document).read()
    assert describe(dataset) == {"c.jpg": [("box", "cat", 20, 10, 80, 60)]}
    assert "image 1: an earlier image has the same id" in list_reasons(dataset)


POINTS = {
    "two corners": ("rectangle", [[20, 10], [80, 60]], ("box", 20, 10, 80, 60)),
    "four corners": ("rectangle", [[20, 60], [20, 10], [80, 10], [80, 60]], ("box", 20, 10, 80, 60)),
    "four turned corners": ("rectangle", [[50, 10], [90, 30], [80, 50], [40, 30]], ("polygon", 40, 10, 90, 50)),
    "rotation": ("rotation", [[50, 10], [90, 30], [80, 50], [40, 30]], ("polygon", 40, 10, 90, 50)),
    "quadrilateral": ("quadrilateral", [[50, 10], [90, 30], [80, 50], [40, 30]], ("polygon", 40, 10, 90, 50)),
    "circle": ("circle", [[50, 50], [50, 80]], ("polygon", 20, 20, 80, 80)),
    "no type": (None, [[20, 10], [80, 10], [80, 60]], ("polygon", 20, 10, 80, 60)),
    "three corners": ("rectangle", [[20, 10], [80, 10], [80, 60]], None),
    "cuboid": ("cuboid", [[20, 10], [80, 10], [80, 60], [20, 60]], None),
    "point": ("point", [[20, 10]], None),
    "line": ("linestrip", [[20, 10], [80, 60], [90, 10]], None),
}


@pytest.mark.situation("R3", "shapes of LabelMe and X-AnyLabeling")
@pytest.mark.parametrize("case", POINTS)
def test_shapes_of_labelme(folder: Folder, case: str) -> None:
    kind, points, expected = POINTS[case]
    shapes = [{"label": "ship", "points": points, "shape_type": kind, "group_id": None, "flags": {}, "direction": 0.5}]
    shapes.append({"label": "ship", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"})
    document = {"shapes": shapes, "imagePath": "a.jpg", "imageData": None, "imageWidth": 200, "imageHeight": 100}
    dataset = folder.add_images("a.jpg").add("a.json", document).read()
    (found, *others) = [(kind, *box) for kind, _, *box in describe(dataset)["a.jpg"]]
    if expected:
        assert (found, len(others), dataset.unusable) == (expected, 1, ())
    else:
        assert found == ("box", 1, 1, 9, 9)
        assert "a.json: shape 0: " in list_reasons(dataset)
        assert list_tasks(dataset, "a.jpg") == set()


@pytest.mark.situation("R3", "a mask, an embedded image, flags and links")
def test_masks_and_embedded_images_of_labelme(folder: Folder) -> None:
    def encode(image: Image.Image) -> str:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return base64.encodebytes(buffer.getvalue()).decode()  # in lines

    mask = {"label": "cat", "shape_type": "mask", "points": [[30, 20], [89, 59]],
            "mask": encode(Image.new("1", (60, 40), 1))}  # fmt: skip
    shapes = [mask, {"label": "dog", "shape_type": "rectangle", "points": [[1, 1], [9, 9]], "kie_linking": [[1, 2]]}]
    document = {"shapes": shapes, "imagePath": "..\\gone\\a.png", "flags": {"dark": True, "wet": False}}
    document |= {"imageData": encode(Image.new("RGB", (200, 100))), "imageWidth": "200", "imageHeight": 100.0}
    dataset = folder.add("a.json", document).read()
    assert describe(dataset) == {"a.png": [("polygon", "cat", 30, 20, 90, 60), ("box", "dog", 1, 1, 9, 9)]}
    assert [each.reason for each in dataset.unusable] == [
        "its flags dark are not used",
        "its links between shapes are not used",
    ]
    assert list_tasks(dataset, "a.png") == {"<OD>"}
    document |= {"imageWidth": 20}
    with pytest.raises(ValueError, match="for 20×100 pixels, its image has 200×100"):
        folder.add("a.json", document).read()


CVAT_SHAPES = {
    "ellipse": ('<ellipse label="cat" cx="50" cy="50" rx="30" ry="20"/>', ("polygon", "cat", 20, 30, 80, 70)),
    "turned ellipse": (
        '<ellipse label="cat" cx="50" cy="50" rx="30" ry="20" rotation="90"/>', ("polygon", "cat", 30, 20, 70, 80),
    ),
    "turned box": (
        '<box label="cat" xtl="50" ytl="20" xbr="110" ybr="40" rotation="90"/>', ("polygon", "cat", 70, 0, 90, 60),
    ),
    "points": ('<points label="cat" points="1,1;2,2"/>', None),
    "skeleton": ('<skeleton label="cat"><points label="1" points="1,1"/></skeleton>', None),
    "polyline": ('<polyline label="cat" points="1,1;2,2"/>', None),
}  # fmt: skip


@pytest.mark.situation("A1", "ellipses, turned boxes, points and skeletons of CVAT")
@pytest.mark.parametrize("case", CVAT_SHAPES)
def test_shapes_of_cvat(folder: Folder, case: str) -> None:
    shape, expected = CVAT_SHAPES[case]
    box = '<box label="{}" xtl="1" ytl="1" xbr="9" ybr="9"><attribute name="color">red</attribute></box>'
    rest = box.format("cat")
    body = f'<image id="0" name="a.jpg" width="200" height="100">{shape}{rest}</image>'
    dataset = folder.add_images("a.jpg").add("annotations.xml", f"<annotations>{body}</annotations>").read()
    assert describe(dataset)["a.jpg"] == [*([expected] if expected else []), ("box", "cat", 1, 1, 9, 9)]
    assert dataset.images[0].traced_annotations[-1].attributes == {"color": "red"}
    assert list_tasks(dataset, "a.jpg") == ({"<OD>"} if expected else set())
    # A point is missing only where boxes have its label.
    body = f'<image id="0" name="a.jpg" width="200" height="100">{shape}{box.format("dog")}</image>'
    dataset = folder.add("annotations.xml", f"<annotations>{body}</annotations>").read()
    assert list_tasks(dataset, "a.jpg") == {"<OD>"}


@pytest.mark.situation("A2", "boxes that CVAT turned, and parts of objects, in Pascal VOC")
def test_attributes_and_parts_of_voc(folder: Folder) -> None:
    corners = "<bndbox><xmin>51</xmin><ymin>21</ymin><xmax>110</xmax><ymax>40</ymax></bndbox>"
    turned = "<attributes><attribute><name>rotation</name><value>90.0</value></attribute></attributes>"
    upright = turned.replace("90.0", "0.0")
    part = f"<part><name>head</name>{corners}</part>"
    objects = (
        f"<object><name>cat</name>{corners}{turned}</object><object><name>dog</name>{corners}{upright}{part}</object>"
    )
    document = f"<annotation><filename>a.jpg</filename>{objects}</annotation>"
    dataset = folder.add_images("JPEGImages/a.jpg").add("Annotations/a.xml", document).read()
    assert describe(dataset) == {"a.jpg": [("polygon", "cat", 70, 0, 90, 60), ("box", "dog", 50, 20, 110, 40)]}
    assert "its part 'head' is not used" in list_reasons(dataset)
    assert list_tasks(dataset, "a.jpg") == {"<OD>"}


FLAGS = "<pose>Left</pose><truncated>0</truncated><difficult>1</difficult><actions><walking>1</walking></actions>"


@pytest.mark.situation("A2", "the XML files of LabelMe 3.0, which CVAT exports")
def test_xml_of_labelme(folder: Folder) -> None:
    corners = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((20, 10), (80, 10), (80, 60), (20, 60)))
    start = "<object><name>{}</name><deleted>{}</deleted><occluded>no</occluded><id>0</id>{}"
    end = f"<polygon>{corners}<username/></polygon><attributes/></object>"
    kinds = (("cat", 0, "<type>bounding_box</type>"), ("dog", 0, ""), ("dog", 1, ""))
    objects = "".join(start.format(*kind) + end for kind in kinds)
    document = f"<annotation><filename>a.jpg</filename><folder>default</folder>{objects}</annotation>"
    dataset = folder.add_images("default/a.jpg").add("default/a.xml", document).read()
    assert list(describe(dataset).values()) == [[("box", "cat", 20, 10, 80, 60), ("polygon", "dog", 20, 10, 80, 60)]]
    assert [each.reason for each in dataset.unusable] == ["it is marked as deleted"]
    assert list_tasks(dataset, dataset.images[0].name) == {"<OD>"}


@pytest.mark.situation("A2", "objects of Pascal VOC that only masks show, as CVAT exports polygons; flags")
@pytest.mark.parametrize("shown", [0, 1, 2])
@pytest.mark.parametrize("below", ["", "sub/"])
def test_masks_and_flags_of_voc(folder: Folder, shown: int, below: str) -> None:
    corners = "<bndbox><xmin>51</xmin><ymin>21</ymin><xmax>110</xmax><ymax>40</ymax></bndbox>"
    document = f"<annotation><filename>a.jpg</filename><object><name>cat</name>{FLAGS}{corners}</object></annotation>"
    folder.add_images(f"JPEGImages/{below}a.jpg", f"SegmentationObject/{below}a.png").add(
        f"Annotations/{below}a.xml", document
    )
    mask = Image.new("RGB", (200, 100))
    mask.paste((224, 224, 192), (0, 0, 90, 90))  # the void around objects
    for number in range(shown):
        mask.paste((0, 128 * number, 128), (10 + 30 * number, 10, 30 + 30 * number, 30))
    mask.save(folder.path / f"SegmentationObject/{below}a.png")
    dataset = folder.read()
    assert describe(dataset) == {f"{below}a.jpg": [("box", "cat", 50, 20, 110, 40)]}
    assert list_tasks(dataset, f"{below}a.jpg") == ({"<OD>"} if shown < 2 else set())
    reasons = [each.reason for each in dataset.unusable]
    assert [
        each for each in ("pose", "truncated", "difficult", "actions") if f"'{each}' of objects is not used" in reasons
    ] == ["pose", "difficult", "actions"]
    assert ("it shows 2 objects, the XML file has 1" in reasons) is (shown == 2)


YOLO_LINES = {
    "box": ("0 0.5 0.5 0.2 0.4", ("box", "yes", 80, 30, 120, 70)),
    "float class": ("1.0 0.5 0.5 0.2 0.4", ("box", "1", 80, 30, 120, 70)),
    "commas": ("2, 0.5, 0.5, 0.2, 0.4", ("box", "007", 80, 30, 120, 70)),
    "semicolons": ("3;0.5;0.5;0.2;0.4;", ("box", "null", 80, 30, 120, 70)),
    "confidence": ("4 0.5 0.5 0.2 0.4 0.9", ("box", "1e3", 80, 30, 120, 70)),
    "oriented": ("5 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7", ("polygon", "2026-01-01", 80, 30, 120, 70)),
    "triangle": ("6 0.4 0.3 0.6 0.3 0.6 0.7", ("polygon", "~", 80, 30, 120, 70)),
    "track id": ("0 0.5 0.5 0.2 0.4 17", None),
    "decimal commas": ("0 0,5 0,5 0,2 0,4", None),
    "cut": ("0 0.4 0.3 0.6 0.3 0.6 0.7 0.4", None),
    "no such class": ("9 0.5 0.5 0.2 0.4", None),
}


@pytest.mark.situation("A3", "lines of YOLO, and class names that YAML takes for other values")
@pytest.mark.parametrize("case", YOLO_LINES)
def test_lines_and_names_of_yolo(folder: Folder, case: str) -> None:
    line, expected = YOLO_LINES[case]
    names = "names: [yes, 1, 007, null, 1e3, 2026-01-01, ~]\n"
    folder.add_images("images/train/a.jpg").add("data.yaml", f"path:\ntrain: images/train\nval: null\ntest: ~\n{names}")
    folder.add("labels/train/a.txt", f"\ufeff\r\n{line}\r\n\r\n0 0.1 0.1 0.1 0.1\r\n")
    dataset = folder.read()
    found = describe(dataset)["images/train/a.jpg"]
    assert found == [*([expected] if expected else []), ("box", "yes", 10, 5, 30, 15)]
    assert [each.source for each in dataset.unusable] == ([] if expected else ["labels/train/a.txt:2"])


@pytest.mark.situation("A3", "class names by number as text, with holes, and keypoints")
def test_names_by_number_and_keypoints_of_yolo(folder: Folder) -> None:
    yaml = "train: images\nkpt_shape: [2, 3]\nnames:\n  '0': no\n  7: off\n"
    folder.add_images("images/a.jpg").add("data.yaml", yaml)
    folder.add("labels/a.txt", "7 0.5 0.5 0.2 0.4 0.5 0.5 2 0.4 0.4 1\n0 0.5 0.5 0.2 0.4 0 0 0 0 0 0\n")
    dataset = folder.read()
    assert [each[1] for each in describe(dataset)["images/a.jpg"]] == ["off", "no"]
    assert list_reasons(dataset) == "data.yaml: keypoints are not used; boxes are"
    with pytest.raises(ValueError, match="has 010 in its `names`, which YAML takes for 8: write no zeros"):
        folder.add("data.yaml", "train: images\nnames: {00: a, 07: b, 010: c}").read()
