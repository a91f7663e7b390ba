"""Public test sets in tiny folders of the same layout: what is asked, and the figures of answers that are known."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.evaluation.predictions import Answered
from finetune.evaluation.report import Marks, Report
from finetune.evaluation.suites import SUITES, Row, Suite, open_suite
from labels.dataset import DatasetError
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Text

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]


def picture(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "white").save(path)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def coco(folder: Path) -> None:
    """Two pictures, a crowd among their labels, and a third that is not on disk."""
    for i in (1, 2):
        picture(folder / f"val2017/{i:012}.jpg")
    images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 100, "height": 80} for i in (1, 2, 3)]
    boxes = [(1, 7, [10, 10, 40, 40], 0), (1, 9, [60, 10, 20, 60], 0), (2, 7, [0, 0, 100, 80], 1)]
    notes = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd,
         "segmentation": [] if not crowd else {"counts": [0, 8000], "size": [80, 100]}}
        for i, (image, category, box, crowd) in enumerate(boxes)  # from 0, as some count
    ]  # fmt: skip
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "tennis racket"}]
    write(
        folder / "annotations/instances_val2017.json",
        {"images": images, "annotations": notes, "categories": categories},
    )
    said = [(1, "a cat plays tennis"), (1, "a cat and\na racket"), (2, "a crowd of many cats"), (3, "nothing at all")]
    texts = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(said)]
    write(folder / "annotations/captions_val2017.json", {"images": images, "annotations": texts})


def refcoco(folder: Path, *, save: Callable[[Path, Any], None] | None = None) -> None:
    name = "COCO_train2014_000000000005.jpg"
    picture(folder / f"train2014/{name}")
    notes = [
        {"id": 1, "image_id": 5, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE]},
        {
            "id": 2,
            "image_id": 5,
            "category_id": 1,
            "bbox": [60, 10, 20, 60],
            "segmentation": {"counts": [], "size": []},
        },
    ]
    write(folder / "instances.json", {"images": [{"id": 5, "file_name": name}], "annotations": notes})
    references = [
        {"ref_id": i, "ann_id": note, "image_id": 5, "split": split, "sentences": [{"sent": text} for text in texts]}
        for i, (note, split, texts) in enumerate(
            [(1, "val", ["left cat", "cat in front"]), (2, "testA", ["right cat"]), (2, "train", ["not asked"])]
        )
    ]
    (save or (lambda path, content: path.write_bytes(pickle.dumps(content, 2))))(folder / "refs(unc).p", references)


def flickr30k(folder: Path) -> None:
    picture(folder / "flickr30k-images/36979.jpg")
    lines = [
        "[/EN#1/people Two men] talk beside [/EN#2/other a red car] in [/EN#0/notvisual the open] .",
        "[/EN#0/other Nothing] of this has a box .",
    ]
    write(folder / "Sentences/36979.txt", "\n".join(lines) + "\n")
    write(folder / "Sentences/40000.txt", "[/EN#9/people A man] is in the training set .\n")
    box = "<bndbox><xmin>{}</xmin><ymin>10</ymin><xmax>{}</xmax><ymax>50</ymax></bndbox>"
    things = [
        f"<object><name>1</name>{box.format(5, 20)}</object>",
        f"<object><name>1</name><name>7</name>{box.format(30, 45)}</object>",
        f"<object><name>2</name>{box.format(50, 90)}</object>",
        "<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>",
    ]
    write(folder / "Annotations/36979.xml", f"<annotation><filename>36979.jpg</filename>{''.join(things)}</annotation>")
    write(folder / "test.txt", "36979\n")


def textvqa(folder: Path) -> None:
    picture(folder / "train_images/003a8ae2ef43b901.jpg")
    asked = {"question": "what is written?", "image_id": "003a8ae2ef43b901", "question_id": 34602, "image_width": 1}
    write(folder / "TextVQA_0.5.1_val.json", {"data": [{**asked, "answers": ["STOP"] * 3 + ["go"] * 7}]})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "coco": coco, "refcoco": refcoco, "flickr30k": flickr30k, "textvqa": textvqa,
}  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[str], Suite]:
    def make(name: str) -> Suite:
        LAYOUTS[name](tmp_path)
        return open_suite(name, tmp_path)

    return make


def answered(suite: Suite, answer: Callable[[Sample], Sequence[Annotation]]) -> list[Row]:
    """The table of a model that answers so."""
    by_task: dict[Any, list[Answered]] = {}
    for example, questions in suite.questions:
        for question in questions:
            by_task.setdefault(question.task, []).append(Answered(example, question, tuple(answer(question))))
    tasks = {task.token: Marks(task, answers) for task, answers in by_task.items()}
    return suite.rows(Report("known", "0", None, None, len(suite.questions), tasks))


def truth(question: Sample) -> Sequence[Annotation]:
    return question.answer[:1] if question.answer and isinstance(question.answer[0], Text) else question.answer


def figures(rows: list[Row]) -> dict[str, float]:
    return {f"{row.task} {row.figure}": row.here for row in rows}


def test_every_suite_has_its_layout() -> None:
    assert list(LAYOUTS) == list(SUITES)


def test_coco(opened: Callable[[str], Suite]) -> None:
    suite = opened("coco")
    assert [example.name for example, _ in suite.questions] == ["000000000001.jpg", "000000000002.jpg"]
    assert "000000000003.jpg" in str(suite.trouble[0])
    assert len(suite.trouble) == 1
    (objects, caption), (nothing, _) = (questions for _, questions in suite.questions)
    assert objects.answer[1] == Box(label="tennis racket", box=(60, 10, 80, 70))
    assert caption.answer == (Text(label="a cat plays tennis"), Text(label="a cat and a racket"))
    assert nothing.answer == ()  # a crowd is nothing to find

    found = figures(answered(suite, truth))
    assert found["<OD> mAP"] == pytest.approx(100)
    assert found["<CAPTION> CIDEr"] > 100
    half = figures(answered(suite, lambda q: truth(q)[:1] if q.task.token == "<OD>" else [Text(label="no")]))
    assert half["<OD> mAP"] == pytest.approx(50)
    assert half["<CAPTION> CIDEr"] == pytest.approx(0)
    # What lies in the crowd is no mistake.
    crowd = Box(label="cat", box=(20, 20, 60, 60), score=0.99)
    found = figures(answered(suite, lambda q: truth(q) or [crowd]))
    assert found["<OD> mAP"] == pytest.approx(100)


def test_coco_takes_either_file(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "annotations/captions_val2017.json").unlink()
    assert {q.task.token for _, asked in open_suite("coco", tmp_path).questions for q in asked} == {"<OD>"}


def test_refcoco(opened: Callable[[str], Suite]) -> None:
    suite = opened("refcoco")
    ((example, questions),) = suite.questions
    assert example.size == (100, 80)
    assert [q.text for q in questions] == ["left cat", "left cat", "cat in front", "cat in front", "right cat"]
    rows = answered(suite, truth)
    assert figures(rows) == {
        "<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, testA": 100,
        "<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, val": 100,
        "<REFERRING_EXPRESSION_SEGMENTATION> mIoU, val": 100,
    }
    assert rows[0].published["base-ft"] == 94.8
    wrong = Box(label="right cat", box=(60, 10, 80, 70), score=0.9)
    outline = Polygon(polygons=[[10, 10, 50, 10, 50, 30, 10, 30]])
    half = figures(answered(suite, lambda q: [outline] if isinstance(q.answer[0], Polygon) else [wrong]))
    assert half["<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, val"] == 0
    assert half["<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, testA"] == 100
    assert half["<REFERRING_EXPRESSION_SEGMENTATION> mIoU, val"] == pytest.approx(50, abs=3)


def test_refcoco_as_json_is_the_same(tmp_path: Path) -> None:
    refcoco(tmp_path, save=lambda path, content: write(path.with_suffix(".json"), content))
    assert len(open_suite("refcoco", tmp_path).questions[0][1]) == 5


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("content", [[Evil()], b"\x80\x02no pickle", {"a": 1}])
def test_a_pickle_that_could_run_code_is_not_read(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "taken"))
    data = content if isinstance(content, bytes) else pickle.dumps(content)
    refcoco(tmp_path, save=lambda path, _: path.write_bytes(data) and None)
    with pytest.raises(DatasetError, match=r"run code|as REFER has them"):
        open_suite("refcoco", tmp_path)
    assert not (tmp_path / "taken").exists()


def test_flickr30k(opened: Callable[[str], Suite]) -> None:
    suite = opened("flickr30k")
    ((_, (question,)),) = suite.questions  # of what is in test.txt, and has boxes
    assert question.text == "Two men talk beside a red car in the open ."
    assert [note.label for note in question.answer] == ["Two men", "Two men", "a red car"]
    (row,) = answered(suite, truth)
    assert (row.here, row.published["large"]) == (100, 84.4)
    second = Box(label="two men", box=(30, 10, 45, 50), score=0.9)  # any of a phrase's boxes will do
    assert answered(suite, lambda q: [second])[0].here == 50


def test_textvqa(opened: Callable[[str], Suite]) -> None:
    suite = opened("textvqa")
    ((_, (question,)),) = suite.questions
    assert (question.task.token, question.text, len(question.answer)) == ("<VQA>", "what is written?", 10)
    (row,) = answered(suite, lambda q: [Text(label="stop")])
    assert row.here == pytest.approx(100 * (3 * 2 / 3 + 7) / 10)
    assert "base" not in row.published


@pytest.mark.parametrize("name", SUITES)
def test_a_folder_of_another_kind_is_refused_with_what_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no"):
        open_suite(name, tmp_path)


@pytest.mark.parametrize("name", SUITES)
def test_without_its_pictures_it_is_refused(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DatasetError, match="no picture of the suite was found"):
        open_suite(name, tmp_path)


def test_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    coco(tmp_path)
    write(tmp_path / "annotations/instances_val2017.json", {"images": [{"id": 1}], "annotations": [], "categories": []})
    with pytest.raises(DatasetError, match="not as COCO has it"):
        open_suite("coco", tmp_path)


def test_no_suite_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="take one of coco, refcoco, flickr30k, textvqa"):
        open_suite("imagenet", tmp_path)
    with pytest.raises(DatasetError, match="there is no folder"):
        open_suite("coco", tmp_path / "gone")
