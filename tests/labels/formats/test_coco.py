import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from finetune.datasets.samples import find_trainable_tasks, make_samples
from labels.dataset import DatasetError
from labels.geometry import MAX_ANSWER_POINTS
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage
from labels.opening import open_dataset
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from tests.labels.samples import (
    PNG,
    boxes,
    captions,
    expect_category,
    export,
    lists_of_images,
    make_example_images,
    polygons,
    quads,
    round_values,
    some,
)

Save = Callable[..., Path]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def make_document(*entries: dict[str, Any], images: list[Any] | None = None) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}] if images is None else images
    return {"images": images, "annotations": list(entries), "categories": CATEGORIES}


def make_annotation(number: int = 1, **entry: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 3, **entry}


def test_boxes_masks_captions_and_words_are_read(save: Save) -> None:
    save("images/a.png")
    ring = [10, 10, 30, 10, 30, 30]
    path = save(
        "labels.json",
        make_document(
            make_annotation(1, bbox=[10, 20, 30, 40]),
            make_annotation(2, bbox=[10, 10, 20, 20], segmentation=[ring, [50, 50, 60, 50, 60, 60]], category_id=7),
            make_annotation(3, bbox=[1, 2, 3, 4], segmentation=[[1, 2, 4, 2, 4, 6, 1, 6]]),
            make_annotation(4, bbox=[1, 2, 9, 9], segmentation=[]),
            {"id": 5, "image_id": 1, "caption": " a cat\n and a dog "},
            make_annotation(6, bbox=[0, 0, 9, 9], segmentation=[[1, 1, 9, 2, 9, 5, 1, 4]], text="STOP", category_id=9),
            make_annotation(7, bbox=[0, 0, 9, 9], utf8_string="GO", category_id=9),
        ),
    )
    dataset = open_dataset(path)
    (example,) = dataset.images
    assert dataset.unusable == ()
    assert example.annotations == (
        Box(label="cat", box=(10, 20, 40, 60)),
        Polygon(label="dog", polygons=[ring, [50, 50, 60, 50, 60, 60]]),
        Box(label="cat", box=(1, 2, 4, 6)),
        Box(label="cat", box=(1, 2, 10, 11)),
        Text(label="a cat and a dog"),
        Quad(label="STOP", quad=(1, 1, 9, 2, 9, 5, 1, 4)),
        Quad(label="GO", quad=(0, 0, 9, 0, 9, 9, 0, 9)),
    )
    assert (example.name, example.source, example.size) == ("a.png", "labels.json: image 1", (100, 80))
    assert example.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
    assert example.open().size == (100, 80)
    assert dataset.classes == ("cat", "dog")
    assert {"<OD>", "<REGION_TO_SEGMENTATION>", "<CAPTION>", "<OCR>"} <= find_trainable_tasks(example)


def test_unusable_entries_name_the_id(save: Save) -> None:
    save("a.png")
    save("b.png", "not an image")
    images = [
        {"id": 1, "file_name": "a.png", "width": 100, "height": 80},
        {"id": 2, "file_name": "b.png"},
        {"id": 3, "file_name": "c.png"},
        {"id": 4, "file_name": "a.png", "width": 9, "height": 9},
        {"id": 7, "file_name": "a.png"},
        {"id": 7, "file_name": "d.png"},
        {"file_name": "e.png"},
        "f.png",
    ]
    entries = [
        make_annotation(1, bbox=[10, 10, 20, 20]),
        make_annotation(2, bbox=[90, 10, 20, 20]),  # half of it is out
        make_annotation(3, bbox=[95, 10, 20, 20]),
        make_annotation(4, bbox=[10, 10, -5, 20]),
        make_annotation(5, bbox=[10, 10, 0, 20]),
        make_annotation(6, bbox=[float("nan"), 10, 5, 20]),
        make_annotation(7, bbox=[1, 2, 3]),
        make_annotation(8),
        make_annotation(9, bbox=[10, 10, 20, 20], category_id=99),
        make_annotation(10, bbox=[10, 10, 20, 20], image_id=99),
        make_annotation(11, bbox=[10, 10, 20, 20], iscrowd=1),
        make_annotation(12, segmentation=[[1, 2, 3, 4]]),
        make_annotation(13, segmentation=[[1, 1, 2, 2, 3, 3]]),
        make_annotation(14, bbox=[1, 1, 5, 5], image_id=2),
        "what",
        make_annotation(16, bbox=["1", "x", 3, 4]),
        {"id": 17, "image_id": 1, "caption": ""},
    ]
    path = save("labels.json", make_document(*entries, images=images))
    dataset = open_dataset(path)
    (example,) = dataset.images
    assert example.annotations == (
        Box(label="cat", box=(10, 10, 30, 30)),
        Box(label="cat", box=(90, 10, 100, 30)),
    )
    assert example.complete == set()
    listed = {each.source.removeprefix("labels.json: "): each.reason for each in dataset.unusable}
    assert set(listed) == {
        *("image 2", "image 3", "image 4", "image 7", "image 6", "image 7"),
        *(f"annotation {n}" for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17)),
    }
    assert "not an image" in listed["image 2"]
    assert "no image 'c.png'" in listed["image 3"]
    assert "for 9×9 pixels" in listed["image 4"]
    assert "75% outside the image of 100×80" in listed["annotation 3"]
    assert listed["annotation 4"] == "its box [10, 10, -5, 20] (x, y, width, height) has a negative side"
    assert "no area" in listed["annotation 5"]
    assert "nan" in listed["annotation 6"]
    assert "99" in listed["annotation 9"]


@pytest.mark.parametrize("name", ["", "x" * 201, "cat<loc_5>", "</s>", "<od>", 7, None])
def test_labels_that_an_answer_cannot_hold_are_refused(save: Save, name: Any) -> None:
    save("a.png")
    entry = make_document(
        make_annotation(1, bbox=[1, 1, 9, 9], category_id=3), make_annotation(2, bbox=[1, 1, 9, 9], category_id=8)
    )
    entry["categories"] = [{"id": 3, "name": "cat"}, {"id": 8, "name": name}]
    dataset = open_dataset(save("labels.json", entry))
    assert [each.source for each in dataset.unusable] == ["labels.json: annotation 2"]
    assert dataset.classes == ("cat",)


def test_a_dataset_without_usable_images_is_refused_with_reasons(save: Save) -> None:
    save("a.png")
    path = save("labels.json", make_document(*(make_annotation(n, bbox=[1, 1, 0, 0]) for n in range(9))))
    with pytest.raises(DatasetError, match=r"annotation 0: its box .* has no area(.|\n)*and 4 more"):
        open_dataset(path)
    with pytest.raises(DatasetError, match="image 1: it has no labels"):
        open_dataset(save("labels.json", make_document()))


def test_an_image_without_labels_is_complete_if_others_have_labels(save: Save) -> None:
    save("a.png"), save("b.png")
    images = [{"id": n, "file_name": name} for n, name in ((1, "a.png"), (2, "b.png"))]
    dataset = open_dataset(save("labels.json", make_document(make_annotation(bbox=[1, 1, 9, 9]), images=images)))
    assert dataset.images[1].annotations == ()
    assert dataset.images[1].complete == {LabelKind.OBJECTS}
    (sample,) = make_samples(dataset.images[1], ["<OD>"], classes=dataset.classes, rng=np.random.default_rng(0))
    assert sample.answer == ()


def test_labels_of_another_size_are_refused(save: Save) -> None:
    save("a.png", size=(80, 100))
    save("b.png")
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in ((1, "a.png"), (2, "b.png"))]
    entries = [make_annotation(1, bbox=[1, 1, 9, 9]), make_annotation(2, bbox=[1, 1, 9, 9], image_id=2)]
    dataset = open_dataset(save("labels.json", make_document(*entries, images=images)))
    assert [each.name for each in dataset.images] == ["b.png"]
    assert "its labels are for 100×80 pixels, its image has 80×100" in dataset.unusable[0].reason


def test_sizes_are_those_that_a_viewer_shows(tmp_path: Path, save: Save) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(tmp_path / "a.jpg", exif=exif)
    images = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}]
    (example,) = open_dataset(
        save("labels.json", make_document(make_annotation(bbox=[1, 1, 9, 9]), images=images))
    ).images
    assert example.size == example.open().size == (100, 80)


def test_instances_and_captions_of_one_image_are_combined(save: Save) -> None:
    save("val2017/a.png")
    save("annotations/instances_val2017.json", make_document(make_annotation(bbox=[1, 1, 9, 9])))
    captions = make_document({"id": 1, "image_id": 5, "caption": "a cat"}, images=[{"id": 5, "file_name": "a.png"}])
    root = save("annotations/captions_val2017.json", captions).parent.parent
    for path in (root, root / "annotations"):
        (example,) = open_dataset(path).images
        assert {each.kind for each in example.annotations} == {"box", "text"}


def test_splits_side_by_side_are_one_dataset(save: Save) -> None:
    for split in ("train", "valid"):
        save(f"{split}/a.png")
        path = save(f"{split}/_annotations.coco.json", make_document(make_annotation(bbox=[1, 1, 9, 9])))
    dataset = open_dataset(path.parent.parent)
    assert [each.name for each in dataset.images] == ["train/a.png", "valid/a.png"]
    assert len(open_dataset(path.parent).images) == 1


def test_splits_in_one_folder_are_one_dataset_and_each_can_be_read_alone(save: Save) -> None:
    for split in ("train", "val"):
        save(f"images/{split}/a.png")
        path = save(f"annotations/instances_{split}.json", make_document(make_annotation(bbox=[1, 1, 9, 9])))
    assert [each.name for each in open_dataset(path.parent.parent).images] == ["train/a.png", "val/a.png"]
    assert [each.name for each in open_dataset(path).images] == ["a.png"]


def test_two_versions_of_one_dataset_must_be_chosen_from(save: Save) -> None:
    save("images/a.png")
    for name in ("labels_v1.json", "labels_v2.json"):
        path = save(f"annotations/{name}", make_document(make_annotation(bbox=[1, 1, 9, 9])))
    with pytest.raises(DatasetError, match=r"labels_v1.json, .*labels_v2.json"):
        open_dataset(path.parent.parent)


def test_sentences_are_grounded_and_the_image_is_not_complete(save: Save) -> None:
    save("a.png")
    ring = [10, 10, 30, 10, 30, 30]
    entry = make_annotation(
        bbox=[10, 10, 20, 20], segmentation=[ring], sentences=[{"sent": "left cat"}, "the cat", {"sent": 4}]
    )
    dataset = open_dataset(save("labels.json", make_document(entry)))
    (example,) = dataset.images
    assert example.complete == set()
    assert "<OD>" not in find_trainable_tasks(example)
    prompts = [(sample.task.token, sample.text) for sample in example.samples]
    for sentence in ("left cat", "the cat"):
        assert ("<REFERRING_EXPRESSION_SEGMENTATION>", sentence) in prompts
        assert ("<CAPTION_TO_PHRASE_GROUNDING>", sentence) in prompts
    assert [each.reason for each in dataset.unusable] == ["its sentence is 4, not text"]


def test_samples_of_sentences_can_be_formatted(save: Save) -> None:
    save("a.png")
    circle = [v for i in range(900) for v in (50 + 30 * math.cos(i / 900 * 6.28), 40 + 30 * math.sin(i / 900 * 6.28))]
    entry = make_annotation(bbox=[20, 10, 60, 60], segmentation=[circle], sentences=["him", "the wheel"])
    (example,) = open_dataset(save("labels.json", make_document(entry))).images
    texts = [format_answer(sample.task, sample.answer, example.size) for sample in example.samples]
    assert len(texts) == 5  # `him` is not a phrase that can be grounded
    assert max(text.count("<loc_") for text in texts) <= 2 * MAX_ANSWER_POINTS


def test_a_single_sentence_needs_no_list(save: Save) -> None:
    save("a.png")
    (example,) = open_dataset(
        save("labels.json", make_document(make_annotation(bbox=[10, 10, 20, 20], sentences="left cat")))
    ).images
    assert {sample.text for sample in example.samples} == {"left cat", None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "labels.json:1 is not JSON"),
        ('{"images": [\n]\n,,}', "labels.json:3 is not JSON"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        ("[" * 100_000, "nested too deep"),
        ("[]", "COCO"),
        ('{"images": [], "annotations": []}', "no labeled images"),
        ('{"images": [{}], "annotations": {}, "categories": 3}', "an id and a file_name"),
        (
            '{"images": [{"id": [], "file_name": "a"}], "annotations": [null, {"image_id": {}}]}',
            "an id and a file_name",
        ),
    ],
)
def test_broken_files_are_refused_with_the_line(save: Save, content: Any, message: str) -> None:
    path = save("labels.json", content)
    with pytest.raises(DatasetError, match=message):
        open_dataset(path)


def test_a_huge_number_is_not_a_position(save: Save) -> None:
    save("a.png")
    text = json.dumps(
        make_document(make_annotation(bbox=[1, 1, 9, 9]), make_annotation(2, bbox=["!", 1, 1, 1]))
    ).replace('"!"', "9" * 400)
    dataset = open_dataset(save("labels.json", text))
    assert len(dataset.unusable) == 1


# Writing


def list_outlines(shape: Box | Quad | Polygon) -> list[tuple[float, ...]]:
    if isinstance(shape, Box):
        return []
    return [round_values(shape.quad)] if isinstance(shape, Quad) else [round_values(ring) for ring in shape.polygons]


@some
@given(lists_of_images(st.one_of(boxes(), quads(), polygons(), captions())))
def test_pycocotools_reads_every_label(labeled_images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = export("coco", labeled_images, Path(folder, "out"))
        files = Path(folder, "out/annotations")
        shapes = COCO(files / "instances_default.json")
        texts, words = (
            COCO(file) if (file := files / f"{kind}_default.json").exists() else COCO()
            for kind in ("captions", "words")
        )
        images = shapes.loadImgs(shapes.getImgIds())
        for other in (texts, words):
            assert other.dataset.get("images", images) == images
        for labeled, image in zip(labeled_images, images, strict=True):
            assert Path(folder, "out/images", image["file_name"]).read_bytes() == PNG
            assert (image["width"], image["height"]) == (labeled.width, labeled.height)
            annotations = [label.annotation for label in labeled.traces]
            for read, is_word in ((shapes, False), (words, True)):
                entry = [
                    (
                        read.cats[a["category_id"]]["name"],
                        a.get("text"),
                        a.get("score"),
                        [round_values(r) for r in a["segmentation"]],
                    )
                    for a in read.imgToAnns[image["id"]]
                ]
                assert entry == [
                    (expect_category(n), n.label if is_word else None, n.score, list_outlines(n))
                    for n in annotations
                    if not isinstance(n, Text) and isinstance(n, Quad) is is_word
                ]
            texts_found = [(a["caption"], a.get("score")) for a in texts.imgToAnns[image["id"]]]
            assert texts_found == [(n.label, n.score) for n in annotations if isinstance(n, Text)]
    assert report.annotations == sum(len(labeled.traces) for labeled in labeled_images)


def test_pycocotools_draws_masks_and_boxes(tmp_path: Path) -> None:
    export("coco", make_example_images(), tmp_path / "out")
    read = COCO(tmp_path / "out/annotations/instances_default.json")
    box, polygon, bare = read.loadAnns(read.getAnnIds())
    assert (box["bbox"], box["area"], box["segmentation"]) == ([1, 2, 10, 20], 200, [])
    assert box["attributes"] == {"review": "small"}
    words = COCO(tmp_path / "out/annotations/words_default.json")
    (quad,) = words.loadAnns(words.getAnnIds())
    assert (quad["bbox"], quad["area"], quad["text"]) == ([0, 0, 4, 2], 8, 'STOP "now"\n<&')
    assert (polygon["bbox"], polygon["area"]) == ([0, 0, 12, 12], 6)
    assert read.annToMask(polygon).sum() > 0
    assert bare["bbox"] == [0, 0, 1, 1]
    assert [c["name"] for c in read.loadCats(read.getCatIds())] == ["cat", "object"]
    assert [c["name"] for c in words.loadCats(words.getCatIds())] == ["text"]


def test_names_are_kept_if_images_are_not_copied(tmp_path: Path) -> None:
    name = 'a/"b"\nc.png'
    export("coco", [LabeledImage.from_traces(name, 4, 4, sha256="0")], tmp_path / "out", placement=ImagePlacement.NONE)
    read = COCO(tmp_path / "out/annotations/instances_default.json")
    assert [image["file_name"] for image in read.dataset["images"]] == [name]
