"""Public test sets in tiny folders of the same layout: their samples, and the metrics of known predictions."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.evaluation.predictions import Prediction
from finetune.evaluation.report import EvaluationReport, TaskReport
from finetune.evaluation.suites import SUITES, Suite, SuiteMetric, open_suite
from labels.dataset import DatasetError
from labels.sample import Sample
from prompts.annotations import Annotation, Box, Polygon, Text

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]


def write_image(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "white").save(path)


def write_file(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_coco(folder: Path) -> None:
    """Two images, one with a crowd among its labels, and a third that is not on disk."""
    for i in (1, 2):
        write_image(folder / f"val2017/{i:012}.jpg")
    images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 100, "height": 80} for i in (1, 2, 3)]
    boxes = [(1, 7, [10, 10, 40, 40], 0), (1, 9, [60, 10, 20, 60], 0), (2, 7, [0, 0, 100, 80], 1)]
    notes = [
        {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd,
         "segmentation": [] if not crowd else {"counts": [0, 8000], "size": [80, 100]}}
        for i, (image, category, box, crowd) in enumerate(boxes)  # some files count from 0
    ]  # fmt: skip
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "tennis racket"}]
    write_file(
        folder / "annotations/instances_val2017.json",
        {"images": images, "annotations": notes, "categories": categories},
    )
    captions = [
        (1, "a cat plays tennis"),
        (1, "a cat and\na racket"),
        (2, "a crowd of many cats"),
        (3, "nothing at all"),
    ]
    rows = [{"id": i, "image_id": image, "caption": text} for i, (image, text) in enumerate(captions)]
    write_file(folder / "annotations/captions_val2017.json", {"images": images, "annotations": rows})


def make_refcoco(folder: Path, *, save: Callable[[Path, Any], None] | None = None) -> None:
    name = "COCO_train2014_000000000005.jpg"
    write_image(folder / f"train2014/{name}")
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
    write_file(folder / "instances.json", {"images": [{"id": 5, "file_name": name}], "annotations": notes})
    references = [
        {"ref_id": i, "ann_id": note, "image_id": 5, "split": split, "sentences": [{"sent": text} for text in texts]}
        for i, (note, split, texts) in enumerate(
            [(1, "val", ["left cat", "cat in front"]), (2, "testA", ["right cat"]), (2, "train", ["not asked"])]
        )
    ]
    (save or (lambda path, content: path.write_bytes(pickle.dumps(content, 2))))(folder / "refs(unc).p", references)


def make_flickr30k(folder: Path) -> None:
    write_image(folder / "flickr30k-images/36979.jpg")
    lines = [
        "[/EN#1/people Two men] talk beside [/EN#2/other a red car] in [/EN#0/notvisual the open] .",
        "[/EN#0/other Nothing] of this has a box .",
    ]
    write_file(folder / "Sentences/36979.txt", "\n".join(lines) + "\n")
    write_file(folder / "Sentences/40000.txt", "[/EN#9/people A man] is in the training set .\n")
    box = "<bndbox><xmin>{}</xmin><ymin>10</ymin><xmax>{}</xmax><ymax>50</ymax></bndbox>"
    things = [
        f"<object><name>1</name>{box.format(5, 20)}</object>",
        f"<object><name>1</name><name>7</name>{box.format(30, 45)}</object>",
        f"<object><name>2</name>{box.format(50, 90)}</object>",
        "<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>",
    ]
    write_file(
        folder / "Annotations/36979.xml", f"<annotation><filename>36979.jpg</filename>{''.join(things)}</annotation>"
    )
    write_file(folder / "test.txt", "36979\n")


def make_textvqa(folder: Path) -> None:
    write_image(folder / "train_images/003a8ae2ef43b901.jpg")
    asked = {"question": "what is written?", "image_id": "003a8ae2ef43b901", "question_id": 34602, "image_width": 1}
    write_file(folder / "TextVQA_0.5.1_val.json", {"data": [{**asked, "answers": ["STOP"] * 3 + ["go"] * 7}]})


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "coco": make_coco, "refcoco": make_refcoco, "flickr30k": make_flickr30k, "textvqa": make_textvqa,
}  # fmt: skip


@pytest.fixture
def open_layout(tmp_path: Path) -> Callable[[str], Suite]:
    def open_named(name: str) -> Suite:
        LAYOUTS[name](tmp_path)
        return open_suite(name, tmp_path)

    return open_named


def compute_metrics(suite: Suite, predict: Callable[[Sample], Sequence[Annotation]]) -> list[SuiteMetric]:
    """Returns the metrics of a model with these predictions."""
    by_task: dict[Any, list[Prediction]] = {}
    for image, samples in suite.samples:
        for sample in samples:
            by_task.setdefault(sample.task, []).append(Prediction(image, sample, tuple(predict(sample))))
    tasks = {task.token: TaskReport(task, own) for task, own in by_task.items()}
    return suite.compute_metrics(EvaluationReport("known", "0", None, None, len(suite.samples), tasks))


def truth(sample: Sample) -> Sequence[Annotation]:
    return sample.answer[:1] if sample.answer and isinstance(sample.answer[0], Text) else sample.answer


def to_dict(metrics: list[SuiteMetric]) -> dict[str, float]:
    return {f"{metric.task} {metric.metric}": metric.value for metric in metrics}


def test_every_suite_has_its_layout() -> None:
    assert list(LAYOUTS) == list(SUITES)


def test_coco(open_layout: Callable[[str], Suite]) -> None:
    suite = open_layout("coco")
    assert [image.name for image, _ in suite.samples] == ["000000000001.jpg", "000000000002.jpg"]
    assert "000000000003.jpg" in str(suite.unusable[0])
    assert len(suite.unusable) == 1
    (objects, caption), (nothing, _) = (samples for _, samples in suite.samples)
    assert objects.answer[1] == Box(label="tennis racket", box=(60, 10, 80, 70))
    assert caption.answer == (Text(label="a cat plays tennis"), Text(label="a cat and a racket"))
    assert nothing.answer == ()  # a crowd is not an object

    metrics = to_dict(compute_metrics(suite, truth))
    assert metrics["<OD> mAP"] == pytest.approx(100)
    assert metrics["<CAPTION> CIDEr"] > 100
    half = to_dict(compute_metrics(suite, lambda q: truth(q)[:1] if q.task.token == "<OD>" else [Text(label="no")]))
    assert half["<OD> mAP"] == pytest.approx(50)
    assert half["<CAPTION> CIDEr"] == pytest.approx(0)
    # A prediction in a crowd is not an error.
    crowd = Box(label="cat", box=(20, 20, 60, 60), score=0.99)
    metrics = to_dict(compute_metrics(suite, lambda q: truth(q) or [crowd]))
    assert metrics["<OD> mAP"] == pytest.approx(100)


def test_coco_needs_only_one_of_its_files(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "annotations/captions_val2017.json").unlink()
    assert {s.task.token for _, samples in open_suite("coco", tmp_path).samples for s in samples} == {"<OD>"}


def test_refcoco(open_layout: Callable[[str], Suite]) -> None:
    suite = open_layout("refcoco")
    ((image, samples),) = suite.samples
    assert image.size == (100, 80)
    assert [sample.text for sample in samples] == ["left cat", "left cat", "cat in front", "cat in front", "right cat"]
    metrics = compute_metrics(suite, truth)
    assert to_dict(metrics) == {
        "<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, testA": 100,
        "<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, val": 100,
        "<REFERRING_EXPRESSION_SEGMENTATION> mIoU, val": 100,
    }
    assert metrics[0].published["base-ft"] == 94.8
    wrong = Box(label="right cat", box=(60, 10, 80, 70), score=0.9)
    outline = Polygon(polygons=[[10, 10, 50, 10, 50, 30, 10, 30]])
    half = to_dict(compute_metrics(suite, lambda q: [outline] if isinstance(q.answer[0], Polygon) else [wrong]))
    assert half["<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, val"] == 0
    assert half["<CAPTION_TO_PHRASE_GROUNDING> accuracy at 0.5, testA"] == 100
    assert half["<REFERRING_EXPRESSION_SEGMENTATION> mIoU, val"] == pytest.approx(50, abs=3)


def test_refcoco_as_json_is_the_same(tmp_path: Path) -> None:
    make_refcoco(tmp_path, save=lambda path, content: write_file(path.with_suffix(".json"), content))
    assert len(open_suite("refcoco", tmp_path).samples[0][1]) == 5


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["EVIL"],)


@pytest.mark.parametrize("content", [[Evil()], b"\x80\x02no pickle", {"a": 1}])
def test_a_pickle_that_could_run_code_is_not_loaded(
    content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "taken"))
    data = content if isinstance(content, bytes) else pickle.dumps(content)
    make_refcoco(tmp_path, save=lambda path, _: path.write_bytes(data) and None)
    with pytest.raises(DatasetError, match=r"run code|not in REFER's format"):
        open_suite("refcoco", tmp_path)
    assert not (tmp_path / "taken").exists()


def test_flickr30k(open_layout: Callable[[str], Suite]) -> None:
    suite = open_layout("flickr30k")
    ((_, (sample,)),) = suite.samples  # the only one in test.txt that has boxes
    assert sample.text == "Two men talk beside a red car in the open ."
    assert [note.label for note in sample.answer] == ["Two men", "Two men", "a red car"]
    (row,) = compute_metrics(suite, truth)
    assert (row.value, row.published["large"]) == (100, 84.4)
    second = Box(label="two men", box=(30, 10, 45, 50), score=0.9)  # any box of a phrase counts
    assert compute_metrics(suite, lambda q: [second])[0].value == 50


def test_textvqa(open_layout: Callable[[str], Suite]) -> None:
    suite = open_layout("textvqa")
    ((_, (sample,)),) = suite.samples
    assert (sample.task.token, sample.text, len(sample.answer)) == ("<VQA>", "what is written?", 10)
    (row,) = compute_metrics(suite, lambda q: [Text(label="stop")])
    assert row.value == pytest.approx(100 * (3 * 2 / 3 + 7) / 10)
    assert "base" not in row.published


@pytest.mark.parametrize("name", SUITES)
def test_a_folder_with_another_layout_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has no"):
        open_suite(name, tmp_path)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_without_images_is_refused(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tmp_path)
    for path in tmp_path.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DatasetError, match="no image of the suite was found"):
        open_suite(name, tmp_path)


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ([], "'file_name' is missing"),
        ([{"id": 5, "image_id": 1, "category_id": 777}], "annotation 5 has category 777, which the file does not list"),
    ],
)
def test_annotations_in_another_format_are_refused(tmp_path: Path, annotations: list[Any], reason: str) -> None:
    make_coco(tmp_path)
    write_file(
        tmp_path / "annotations/instances_val2017.json",
        {"images": [{"id": 1}], "annotations": annotations, "categories": []},
    )
    with pytest.raises(DatasetError, match=f"not in COCO's format: {reason}"):
        open_suite("coco", tmp_path)


def test_unknown_suites_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="use one of coco, refcoco, flickr30k, textvqa"):
        open_suite("imagenet", tmp_path)
    with pytest.raises(DatasetError, match="there is no folder"):
        open_suite("coco", tmp_path / "gone")
