import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.datasets.samples import find_trainable_tasks, make_samples
from labels.dataset import DatasetError
from labels.formats import FORMATS
from labels.geometry import MAX_ANSWER_POINTS, bounding_box
from labels.label_kind import LabelKind
from labels.opening import open_dataset
from prompts.annotations import Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from seedling.scenes.drawing import draw_scene
from seedling.scenes.labeled_images import to_labeled_image

Save = Callable[..., Path]
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def document(*notes: dict[str, Any], images: list[Any] | None = None) -> dict[str, Any]:
    images = [{"id": 1, "file_name": "a.png", "width": 100, "height": 80}] if images is None else images
    return {"images": images, "annotations": list(notes), "categories": CATEGORIES}


def note(number: int = 1, **said: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 3, **said}


def test_boxes_masks_captions_and_words(save: Save) -> None:
    save("images/a.png")
    ring = [10, 10, 30, 10, 30, 30]
    path = save(
        "labels.json",
        document(
            note(1, bbox=[10, 20, 30, 40]),
            note(2, bbox=[10, 10, 20, 20], segmentation=[ring, [50, 50, 60, 50, 60, 60]], category_id=7),
            note(3, bbox=[1, 2, 3, 4], segmentation=[[1, 2, 4, 2, 4, 6, 1, 6]]),
            note(4, bbox=[1, 2, 9, 9], segmentation=[]),
            {"id": 5, "image_id": 1, "caption": " a cat\n and a dog "},
            note(6, bbox=[0, 0, 9, 9], segmentation=[[1, 1, 9, 2, 9, 5, 1, 4]], text="STOP"),
            note(7, bbox=[0, 0, 9, 9], utf8_string="GO"),
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


def test_what_cannot_be_used_is_listed_by_its_id(save: Save) -> None:
    save("a.png")
    save("b.png", "no picture")
    images = [
        {"id": 1, "file_name": "a.png", "width": 100, "height": 80},
        {"id": 2, "file_name": "b.png"},
        {"id": 3, "file_name": "c.png"},
        {"id": 4, "file_name": "a.png"},
        {"id": 1, "file_name": "d.png"},
        {"file_name": "e.png"},
        "f.png",
    ]
    notes = [
        note(1, bbox=[10, 10, 20, 20]),
        note(2, bbox=[90, 10, 20, 20]),  # half of it is out
        note(3, bbox=[95, 10, 20, 20]),
        note(4, bbox=[10, 10, -5, 20]),
        note(5, bbox=[10, 10, 0, 20]),
        note(6, bbox=[float("nan"), 10, 5, 20]),
        note(7, bbox=[1, 2, 3]),
        note(8),
        note(9, bbox=[10, 10, 20, 20], category_id=99),
        note(10, bbox=[10, 10, 20, 20], image_id=99),
        note(11, bbox=[10, 10, 20, 20], iscrowd=1),
        note(12, segmentation=[[1, 2, 3, 4]]),
        note(13, segmentation=[[1, 1, 2, 2, 3, 3]]),
        note(14, bbox=[1, 1, 5, 5], image_id=2),
        "what",
        note(16, bbox=["1", "x", 3, 4]),
        {"id": 17, "image_id": 1, "caption": ""},
    ]
    path = save("labels.json", document(*notes, images=images))
    dataset = open_dataset(path)
    (example,) = dataset.images
    assert example.annotations == (
        Box(label="cat", box=(10, 10, 30, 30)),
        Box(label="cat", box=(90, 10, 100, 30)),
    )
    assert example.complete == set()
    listed = {each.source.removeprefix("labels.json: "): each.reason for each in dataset.unusable}
    assert set(listed) == {
        *("image 2", "image 3", "image 4", "image 1", "image 5", "image 6"),
        *(f"annotation {n}" for n in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17)),
    }
    assert "not an image" in listed["image 2"]
    assert "no image 'c.png'" in listed["image 3"]
    assert "labels.json: image 1" in listed["image 4"]
    assert "75% outside the image of 100×80" in listed["annotation 3"]
    assert "inverted" in listed["annotation 4"]
    assert "no area" in listed["annotation 5"]
    assert "nan" in listed["annotation 6"]
    assert "99" in listed["annotation 9"]


@pytest.mark.parametrize("name", ["", "x" * 201, "cat<loc_5>", "</s>", "<od>", 7, None])
def test_labels_that_no_answer_can_hold(save: Save, name: Any) -> None:
    save("a.png")
    said = document(note(1, bbox=[1, 1, 9, 9], category_id=3), note(2, bbox=[1, 1, 9, 9], category_id=8))
    said["categories"] = [{"id": 3, "name": "cat"}, {"id": 8, "name": name}]
    dataset = open_dataset(save("labels.json", said))
    assert [each.source for each in dataset.unusable] == ["labels.json: annotation 2"]
    assert dataset.classes == ("cat",)


def test_a_dataset_of_nothing_usable_is_refused_with_reasons(save: Save) -> None:
    save("a.png")
    path = save("labels.json", document(*(note(n, bbox=[1, 1, 0, 0]) for n in range(9))))
    with pytest.raises(DatasetError, match=r"annotation 0: its box .* has no area(.|\n)*and 4 more"):
        open_dataset(path)
    with pytest.raises(DatasetError, match="image 1: it has no labels"):
        open_dataset(save("labels.json", document()))


def test_a_picture_without_objects_among_others_is_known_to_have_none(save: Save) -> None:
    save("a.png"), save("b.png")
    images = [{"id": n, "file_name": name} for n, name in ((1, "a.png"), (2, "b.png"))]
    dataset = open_dataset(save("labels.json", document(note(bbox=[1, 1, 9, 9]), images=images)))
    assert dataset.images[1].annotations == ()
    assert dataset.images[1].complete == {LabelKind.OBJECTS}
    (question,) = make_samples(dataset.images[1], ["<OD>"], classes=dataset.classes, rng=np.random.default_rng(0))
    assert question.answer == ()


def test_labels_of_another_size_are_refused(save: Save) -> None:
    save("a.png", size=(80, 100))
    save("b.png")
    images = [{"id": n, "file_name": name, "width": 100, "height": 80} for n, name in ((1, "a.png"), (2, "b.png"))]
    notes = [note(1, bbox=[1, 1, 9, 9]), note(2, bbox=[1, 1, 9, 9], image_id=2)]
    dataset = open_dataset(save("labels.json", document(*notes, images=images)))
    assert [each.name for each in dataset.images] == ["b.png"]
    assert "its labels are for 100×80 pixels, its image has 80×100" in dataset.unusable[0].reason


def test_sizes_are_as_a_viewer_shows_the_picture(tmp_path: Path, save: Save) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 100)).save(tmp_path / "a.jpg", exif=exif)
    images = [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}]
    (example,) = open_dataset(save("labels.json", document(note(bbox=[1, 1, 9, 9]), images=images))).images
    assert example.size == example.open().size == (100, 80)


def test_instances_and_captions_of_one_picture_come_together(save: Save) -> None:
    save("val2017/a.png")
    save("annotations/instances_val2017.json", document(note(bbox=[1, 1, 9, 9])))
    captions = document({"id": 1, "image_id": 5, "caption": "a cat"}, images=[{"id": 5, "file_name": "a.png"}])
    root = save("annotations/captions_val2017.json", captions).parent.parent
    for path in (root, root / "annotations"):
        (example,) = open_dataset(path).images
        assert {each.kind for each in example.annotations} == {"box", "text"}


def test_splits_side_by_side_are_one_dataset(save: Save) -> None:
    for split in ("train", "valid"):
        save(f"{split}/a.png")
        path = save(f"{split}/_annotations.coco.json", document(note(bbox=[1, 1, 9, 9])))
    dataset = open_dataset(path.parent.parent)
    assert [each.name for each in dataset.images] == ["train/a.png", "valid/a.png"]
    assert len(open_dataset(path.parent).images) == 1


def test_several_files_that_are_not_of_one_split_must_be_chosen_from(save: Save) -> None:
    save("a.png")
    for name in ("instances_train.json", "instances_val.json"):
        path = save(f"annotations/{name}", document(note(bbox=[1, 1, 9, 9])))
    with pytest.raises(DatasetError, match=r"instances_train.json, .*instances_val.json"):
        open_dataset(path.parent.parent)


def test_sentences_are_grounded_and_not_all_is_taken_for_labelled(save: Save) -> None:
    save("a.png")
    ring = [10, 10, 30, 10, 30, 30]
    said = note(bbox=[10, 10, 20, 20], segmentation=[ring], sentences=[{"sent": "left cat"}, "the cat", {"sent": 4}])
    dataset = open_dataset(save("labels.json", document(said)))
    (example,) = dataset.images
    assert example.complete == set()
    assert "<OD>" not in find_trainable_tasks(example)
    asked = [(question.task.token, question.text) for question in example.samples]
    for sentence in ("left cat", "the cat"):
        assert ("<REFERRING_EXPRESSION_SEGMENTATION>", sentence) in asked
        assert ("<CAPTION_TO_PHRASE_GROUNDING>", sentence) in asked
    assert [each.reason for each in dataset.unusable] == ["its sentence is 4, not text"]


def test_what_sentences_teach_can_be_written(save: Save) -> None:
    save("a.png")
    circle = [v for i in range(900) for v in (50 + 30 * math.cos(i / 900 * 6.28), 40 + 30 * math.sin(i / 900 * 6.28))]
    said = note(bbox=[20, 10, 60, 60], segmentation=[circle], sentences=["him", "the wheel"])
    (example,) = open_dataset(save("labels.json", document(said))).images
    texts = [format_answer(question.task, question.answer, example.size) for question in example.samples]
    assert len(texts) == 5  # `him` is no phrase that a grounding finds
    assert max(text.count("<loc_") for text in texts) <= 2 * MAX_ANSWER_POINTS


def test_one_sentence_needs_no_list(save: Save) -> None:
    save("a.png")
    (example,) = open_dataset(save("labels.json", document(note(bbox=[10, 10, 20, 20], sentences="left cat")))).images
    assert {question.text for question in example.samples} == {"left cat", None}


@pytest.mark.parametrize(
    ("content", "said"),
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
def test_broken_files_are_told_as_such(save: Save, content: Any, said: str) -> None:
    path = save("labels.json", content)
    with pytest.raises(DatasetError, match=said):
        open_dataset(path)


def test_a_huge_number_is_no_place(save: Save) -> None:
    save("a.png")
    text = json.dumps(document(note(bbox=[1, 1, 9, 9]), note(2, bbox=["!", 1, 1, 1]))).replace('"!"', "9" * 400)
    dataset = open_dataset(save("labels.json", text))
    assert len(dataset.unusable) == 1


def test_drawn_scenes_come_back_from_the_disk(tmp_path: Path) -> None:
    counts = [((0, 0), (0, 0)), ((0, 0), (1, 2)), ((1, 4), (0, 0)), *[((1, 4), (0, 2))] * 3]
    scenes = [draw_scene(seed, objects=counts[seed % 6][0], words=counts[seed % 6][1]) for seed in range(12)]
    given = [to_labeled_image(scene, str(number), polygons=number % 2 == 0) for number, scene in enumerate(scenes)]
    FORMATS["coco"].write(given, tmp_path / "demo", copy_images=True)
    dataset = open_dataset(tmp_path / "demo")
    assert dataset.unusable == ()
    for back, true in zip(dataset.images, given, strict=True):
        assert back.size == true.size
        assert back.complete == true.complete
        assert back.open().tobytes() == true.open().tobytes()
        assert [(note.kind, note.label) for note in back.annotations] == [
            (note.kind, note.label) for note in true.annotations
        ]
        for one, other in zip(back.annotations, true.annotations, strict=True):
            assert not isinstance(one, Text)
            assert not isinstance(other, Text)
            assert bounding_box(one) == pytest.approx(bounding_box(other))
