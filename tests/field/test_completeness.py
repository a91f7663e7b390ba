"""What a repeated, refused or second description of an image adds to it, and what it takes."""

from pathlib import Path

import pyarrow.parquet
import pytest

from labels.conversion import convert_dataset
from labels.formats import FORMATS
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from tests.field.annotation_files import (
    Folder,
    describe,
    list_reasons,
    list_tasks,
    make_coco,
    make_result,
    make_task,
)

CAT, DOG = {"bbox": [20, 10, 60, 50]}, {"bbox": [100, 10, 40, 40], "category_id": 2}
FOUND = [("box", "cat", 20, 10, 80, 60), ("box", "dog", 100, 10, 140, 50)]
REPEATED = "it is a duplicate of an earlier label of its image, and counts once"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.situation("S3", "the same annotations in a second file, with and without their outlines")
@pytest.mark.parametrize("has_outline", [True, False])
def test_annotations_of_two_files_count_once(folder: Folder, has_outline: bool) -> None:
    outline = {"segmentation": [[20, 10, 80, 10, 80, 60]]}
    points = {"keypoints": [30, 20, 2], "num_keypoints": 1, "id": 7}
    folder.add_images("val2017/a.jpg").add(
        "annotations/instances_val2017.json", make_coco({**CAT, **outline, "id": 7}, DOG)
    )
    keypoints = make_coco({**CAT, **(outline if has_outline else {}), **points}, classes=("cat",))
    dataset = folder.add("annotations/person_keypoints_val2017.json", keypoints).read()
    (found,) = describe(dataset).values()
    assert found == [("polygon", *FOUND[0][1:]), FOUND[1]]
    assert "person_keypoints_val2017.json: annotation 7: it is a duplicate" in list_reasons(dataset)
    assert "person_keypoints_val2017.json: keypoints are not used" in list_reasons(dataset)
    assert list_tasks(dataset, dataset.images[0].name) == {"<OD>"}


def write_twice(name: str, folder: Folder) -> None:
    """Writes a cat (twice, with other digits where the format has them) and a dog near it."""
    image = '<image id="0" name="a.jpg" width="200" height="100">{}</image>'
    box = '<box label="cat" xtl="20.00" ytl="10.00" xbr="{}" ybr="60.00"/>'
    xml = (
        "<object><name>cat</name><bndbox><xmin>21</xmin><ymin>11</ymin><xmax>{}</xmax><ymax>60</ymax></bndbox></object>"
    )
    if name == "yolo":
        folder.add_images("images/a.jpg").add("data.yaml", "train: images\nnames: [cat]")
        folder.add("labels/a.txt", "0 .25 .35 .3 .5\n0 0.250000 0.350000 0.300000 0.500000\n0 0.252500 .35 .305 .5\n")
        return
    folder.add_images("JPEGImages/a.jpg" if name == "voc" else "a.jpg")
    match name:
        case "coco":
            folder.add("c.json", make_coco(CAT, CAT, {"bbox": [20, 10, 61, 50]}))
        case "voc":
            objects = "".join(xml.format(side) for side in (80, 80, 81))
            folder.add("Annotations/a.xml", f"<annotation><filename>a.jpg</filename>{objects}</annotation>")
        case "cvat":
            shapes = "".join(box.format(side) for side in ("80.00", "80", "81"))
            folder.add("annotations.xml", f"<annotations>{image.format(shapes)}</annotations>")
        case "labelme":
            shapes = [{"label": "cat", "shape_type": "rectangle", "points": [[20, 10], [x, 60]]} for x in (80, 80, 81)]
            folder.add("a.json", {"shapes": shapes, "imagePath": "a.jpg"})
        case "label-studio":
            widths = {"r1": 30, "r2": 30.0, "r3": 30.5}
            place = {"x": 10, "y": 10, "height": 50}
            results = [make_result(number=n, value={**place, "width": width}) for n, width in widths.items()]
            folder.add("t.json", [make_task(*results)])
        case "jsonl":
            boxes = [{"annotation": {"kind": "box", "label": "cat", "box": [20, 10, x, 60]}} for x in (80, 80.0, 81)]
            folder.add("l.jsonl", {"name": "a.jpg", "labels": boxes})
        case "huggingface":
            boxes = [{"bbox": [20, 10, x, 50], "category": "cat"} for x in (60, 60.0, 61)]
            folder.add("metadata.jsonl", {"file_name": "a.jpg", "objects": boxes})


NAMES = ("coco", "yolo", "voc", "cvat", "labelme", "label-studio", "jsonl", "huggingface")


@pytest.mark.situation("S3", "an annotation twice in a file, beside another one that is nearly there")
@pytest.mark.parametrize("name", NAMES)
def test_repeated_annotations_count_once(folder: Folder, name: str) -> None:
    write_twice(name, folder)
    dataset = folder.read()
    (found,) = describe(dataset).values()
    assert found == [("box", "cat", 20, 10, 80, 60), ("box", "cat", 20, 10, 81, 60)]
    assert [each.reason for each in dataset.unusable] == [REPEATED]
    assert list_tasks(dataset, dataset.images[0].name) == {"<OD>"}


@pytest.mark.situation("S3", "what was read is written, read again and has nothing left out")
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "yolo-segment"])
def test_converted_datasets_have_no_repetitions(folder: Folder, name: str, tmp_path: Path) -> None:
    dataset = folder.add_images("a.jpg").add("c.json", make_coco(CAT, CAT, DOG)).read()
    convert_dataset(dataset, FORMATS[name], tmp_path / "out" / name, placement=ImagePlacement.COPY)
    again = open_dataset(tmp_path / "out" / name)
    assert (list(describe(again).values()), again.unusable) == ([FOUND], ())


TWO = {
    "coco": ("c.json", make_coco(CAT, {**DOG, "image_id": 2}, images=("a.jpg", "./a.jpg"))),
    "label-studio": (
        "t.json",
        [
            make_task(make_result(value={"x": 10, "y": 10, "height": 50}), data={"image": "/data/upload/1/a.jpg"}),
            make_task(
                make_result(label="dog", value={"x": 50, "y": 10, "width": 20}), data={"image": "/data/upload/2/a.jpg"}
            ),
        ],
    ),
    "cvat": (
        "annotations.xml",
        '<annotations><image name="a.jpg"><box label="cat" xtl="20" ytl="10" xbr="80" ybr="60"/></image>'
        '<image name="a.jpg"><box label="dog" xtl="100" ytl="10" xbr="140" ybr="50"/></image></annotations>',
    ),
    "jsonl": (
        "l.jsonl",
        '{"name": "a.jpg", "labels": [{"annotation": {"kind": "box", "label": "cat", "box": [20, 10, 80, 60]}}]}\n'
        '{"name": "a.jpg", "labels": [{"annotation": {"kind": "box", "label": "dog", "box": [100, 10, 140, 50]}}]}\n',
    ),
    "huggingface": (
        "metadata.jsonl",
        '{"file_name": "a.jpg", "objects": [{"bbox": [20, 10, 60, 50], "category": "cat"}]}\n'
        '{"file_name": "./a.jpg", "objects": [{"bbox": [100, 10, 40, 40], "category": "dog"}]}\n',
    ),
}


@pytest.mark.situation("S7", "a file under two ids is one image with all annotations")
@pytest.mark.parametrize("name", TWO)
def test_a_file_that_is_described_twice_is_one_image(folder: Folder, name: str) -> None:
    dataset = folder.add_images("a.jpg").add(*TWO[name]).read()
    assert (describe(dataset), dataset.unusable) == ({"a.jpg": FOUND}, ())
    assert list_tasks(dataset, "a.jpg") == {"<OD>"}


@pytest.mark.situation("S7", "two XML files about one image")
def test_two_files_about_one_image(folder: Folder) -> None:
    xml = (
        "<annotation><filename>a.jpg</filename><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>11</ymin>"
        "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>"
    )
    folder.add_images("JPEGImages/a.jpg").add("Annotations/a.xml", xml.format("cat", 21, 80, 60))
    dataset = folder.add("Annotations/more.xml", xml.format("dog", 101, 140, 50)).read()
    assert list(describe(dataset).values()) == [FOUND]


@pytest.mark.situation("S7", "a second description that cannot be used takes everything from its image")
@pytest.mark.parametrize("order", [1, -1])
def test_a_refused_description_makes_its_image_incomplete(folder: Folder, order: int) -> None:
    images = [
        {"id": 1, "file_name": "a.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "a.jpg", "width": 50, "height": 50},
        {"id": 3, "file_name": "b.jpg"},
    ][::order]
    document = make_coco(CAT, {**DOG, "image_id": 2}, {**DOG, "image_id": 3}, images=images)
    dataset = folder.add_images("a.jpg", "b.jpg").add("c.json", document).read()
    assert describe(dataset) == {"a.jpg": FOUND[:1], "b.jpg": FOUND[1:]}
    assert "image 2: its labels are for 50×50 pixels" in list_reasons(dataset)
    assert (list_tasks(dataset, "a.jpg"), list_tasks(dataset, "b.jpg")) == (set(), {"<OD>"})


@pytest.mark.situation("A6", "images that only captions describe, beside images with objects")
def test_captions_say_nothing_about_objects(folder: Folder) -> None:
    folder.add_images("a.jpg", "b.jpg").add("instances_val.json", make_coco(CAT))
    captions = make_coco(
        {"caption": "a cat"}, {"caption": "two dogs", "image_id": 2}, images=("a.jpg", "b.jpg"), classes=()
    )
    dataset = folder.add("captions_val.json", captions).read()
    assert (list_tasks(dataset, "a.jpg"), list_tasks(dataset, "b.jpg")) == ({"<OD>"}, set())
    folder = Folder(folder.path / "hf").add_images("a.jpg", "b.jpg")
    row = '{"file_name": "a.jpg", "objects": [{"bbox": [1, 1, 9, 9], "label": "cat"}]}\n'
    dataset = folder.add("metadata.jsonl", f'{row}{{"file_name": "b.jpg", "text": "x"}}').read()
    assert (list_tasks(dataset, "a.jpg"), list_tasks(dataset, "b.jpg")) == ({"<OD>"}, set())


WORD = {"bbox": [1, 1, 20, 10], "text": "STOP", "category_id": 3}
COSTS = {
    "a caption": ({"caption": 7}, {"<OD>", "<OCR_WITH_REGION>"}),
    "a word without text": ({**WORD, "text": ""}, {"<OD>"}),
    "a word without a place": ({"text": "GO", "category_id": 3}, {"<OD>"}),
    "an object without a place": ({}, {"<OCR_WITH_REGION>"}),
    "an unknown class": ({**CAT, "category_id": 9}, {"<OCR_WITH_REGION>"}),
    "a box outside": ({"bbox": [190, 10, 60, 50]}, {"<OCR_WITH_REGION>"}),
    "a crowd": ({**CAT, "iscrowd": 1}, {"<OCR_WITH_REGION>"}),
    "a region to ignore": ({**DOG, "ignore": 1}, {"<OCR_WITH_REGION>"}),
    "a broken outline of an object with a box": ({**DOG, "segmentation": [[1, 2]]}, {"<OD>", "<OCR_WITH_REGION>"}),
    "an unknown image": ({**DOG, "image_id": 9}, {"<OD>", "<OCR_WITH_REGION>"}),
    "a repetition": ({**WORD}, {"<OD>", "<OCR_WITH_REGION>"}),
    "keypoints": ({**DOG, "keypoints": [1, 1, 2]}, {"<OD>", "<OCR_WITH_REGION>"}),
}


@pytest.mark.situation("A7", "what a refused annotation takes from its image")
@pytest.mark.parametrize("case", COSTS)
def test_a_refused_annotation_takes_what_it_makes_uncertain(folder: Folder, case: str) -> None:
    entry, tasks = COSTS[case]
    others = [{**WORD, "image_id": 2}, {**CAT, "image_id": 2}]
    document = make_coco(CAT, WORD, *others, entry, images=("a.jpg", "b.jpg"))
    dataset = folder.add_images("a.jpg", "b.jpg").add("c.json", document).read()
    assert len(dataset.unusable) == 1
    assert list_tasks(dataset, "a.jpg") == tasks
    assert list_tasks(dataset, "b.jpg") == {"<OD>", "<OCR_WITH_REGION>"}


PROMPTS = {
    "<OD>": ("cat<loc_1><loc_2>", {"<OCR_WITH_REGION>"}),
    "<OCR_WITH_REGION>": ("x<loc_1><loc_2>", {"<OD>"}),
    "<VQA>how many?": ("<loc_1>" * 3, {"<OD>", "<OCR_WITH_REGION>"}),
    "segment cat": ("<seg001>", {"<OD>", "<OCR_WITH_REGION>"}),
}


@pytest.mark.situation("A7", "what an answer that cannot be read takes from its image")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_refused_answer_takes_what_its_prompt_asks_for(folder: Folder, prompt: str) -> None:
    answer, tasks = PROMPTS[prompt]
    word = "x" + "".join(f"<loc_{n}>" for n in (1, 1, 90, 1, 90, 90, 1, 90))
    lines = [("<OD>", "cat<loc_1><loc_2><loc_300><loc_400>"), ("<OCR_WITH_REGION>", word), (prompt, answer)]
    rows = "".join(f'{{"image": "a.jpg", "prefix": "{prefix}", "suffix": "{suffix}"}}\n' for prefix, suffix in lines)
    dataset = folder.add_images("a.jpg").add("l.jsonl", rows).read()
    assert [each.source for each in dataset.unusable] == ["l.jsonl:3"]
    assert list_tasks(dataset, "a.jpg") == tasks


@pytest.mark.situation("M1", "labels for stored pixels, exchanged sizes without EXIF, and images that EXIF turns too")
def test_advice_about_orientation_helps(folder: Folder) -> None:
    names = ("stored", "exchanged", "half", "upright", "plain")
    sizes = {"upright": (100, 200)}
    images = [
        {
            "id": n,
            "file_name": f"{name}.jpg",
            "width": sizes.get(name, (200, 100))[0],
            "height": sizes.get(name, (0, 100))[1],
        }
        for n, name in enumerate(names, start=1)
    ]
    small = {"bbox": [1, 1, 9, 9]}
    document = make_coco(*({**small, "image_id": n} for n in range(1, 6)), images=images)
    folder.add_images("stored.jpg", "upright.jpg", orientation=6).add_images("exchanged.jpg", size=(100, 200))
    dataset = folder.add_images("half.jpg", orientation=3).add_images("plain.jpg").add("c.json", document).read()
    assert list(describe(dataset)) == ["upright.jpg", "plain.jpg"]
    reasons = {each.source: each.reason for each in dataset.unusable}
    assert "remove the orientation, for example by `exiftool" in reasons["c.json: image 1"]
    assert "the image has no EXIF orientation" in reasons["c.json: image 2"]
    assert "labels of other images here are for the stored pixels" in reasons["c.json: image 3"]
    assert not any("upright:" in reason or "save it" in reason for reason in reasons.values())
    # Without the orientation, the labels fit.
    fixed = folder.add_images("stored.jpg", "half.jpg").read()
    assert list(describe(fixed)) == ["stored.jpg", "half.jpg", "upright.jpg", "plain.jpg"]


@pytest.mark.situation("R13", "metadata.csv of an image folder: quotes, lines, several rows, splits")
def test_captions_in_csv(folder: Folder) -> None:
    rows = '\ufefffile_name, text\r\na.jpg,"red, ""old""\r\ncar"\r\na.jpg,a car\r\nb.jpg,one, two\r\nc.jpg,3\r\n'
    folder.add_images("train/a.jpg", "train/b.jpg", "train/c.jpg", "test/a.jpg").add("train/metadata.csv", rows)
    folder.add("test/metadata.csv", "file_name,caption,label\na.jpg,a dog,7\n")
    dataset = folder.read()
    assert describe(dataset) == {
        "test/a.jpg": [("a dog",)],
        "train/a.jpg": [('red, "old" car',), ("a car",)],
        "train/c.jpg": [("3",)],
    }
    assert list_reasons(dataset).splitlines() == [
        "test/metadata.csv: the column 'label' is not used: it labels whole images",
        "train/metadata.csv:5: it has 3 cells for 2 columns; a text with a comma needs quotes",
    ]


@pytest.mark.situation("R13", "metadata.parquet of an image folder with splits")
def test_captions_in_parquet(folder: Folder) -> None:
    folder.add_images("train/a.jpg", "train/b.jpg", "test/a.jpg")
    columns = {"file_name": ["a.jpg", "b.jpg", "a.jpg"], "text": ["a car", "two", "red"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder.path / "train/metadata.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"file_name": ["a.jpg"], "text": ["a dog"]}), folder.path / "test/metadata.parquet"
    )
    dataset = folder.read()
    assert dataset.unusable == ()
    assert describe(dataset) == {
        "test/a.jpg": [("a dog",)],
        "train/a.jpg": [("a car",), ("red",)],
        "train/b.jpg": [("two",)],
    }
