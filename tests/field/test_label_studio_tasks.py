"""Tasks of Label Studio: which image a result is about, which annotation counts, what a region is."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.field.annotation_files import Folder, describe, list_reasons, list_tasks, make_result, make_task

LEFT, RIGHT = "/data/upload/1/left.jpg", "s3://bucket/some/right.jpg"
CAR = ("box", "car", 20, 20, 80, 60)
BUS = ("box", "bus", 20, 20, 80, 60)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path).add_images("a.jpg", "left.jpg", "right.jpg")


def about(name: Any, label: str, **more: Any) -> dict[str, Any]:
    return make_result(label=label, number=label, to_name=name, **more)


@pytest.mark.situation("S4", "two images in a task: results go by to_name")
def test_results_go_to_the_image_that_they_name(folder: Folder) -> None:
    data = {"img1": LEFT, "img2": RIGHT, "title": "left.jpg"}
    dataset = folder.add("t.json", [make_task(about("img2", "bus"), about("img1", "car"), data=data)]).read()
    assert describe(dataset) == {"left.jpg": [CAR], "right.jpg": [BUS]}
    assert dataset.unusable == ()
    assert list_tasks(dataset, "left.jpg") == list_tasks(dataset, "right.jpg") == {"<OD>"}


@pytest.mark.situation("S4", "an image without a result in one task, which has some in another")
def test_an_image_of_several_may_be_empty(folder: Folder) -> None:
    both = make_task(about("img1", "car"), about("img2", "bus"), data={"img1": "a.jpg", "img2": RIGHT})
    one = make_task(data={"img1": LEFT, "img2": RIGHT})
    dataset = folder.add("t.json", [both, one]).read()
    assert describe(dataset) == {"a.jpg": [CAR], "right.jpg": [BUS], "left.jpg": []}
    assert list_tasks(dataset, "left.jpg") == {"<OD>"}


@pytest.mark.situation("S4", "a second image that nobody labeled, such as a reference")
def test_an_image_that_no_result_names_is_not_used(folder: Folder) -> None:
    task = make_task(about("image", "car"), data={"image": LEFT, "reference": RIGHT})
    assert describe(folder.add("t.json", [task]).read()) == {"left.jpg": [CAR]}


@pytest.mark.situation("S4", "names of the configuration that are not those of the data")
@pytest.mark.parametrize("has_config", [True, False])
def test_the_configuration_says_which_image_a_name_is(folder: Folder, has_config: bool) -> None:
    data = {"image1": LEFT, "image2": RIGHT}
    folder.add("tasks/t.json", [make_task(about("l", "car"), about("r", "bus"), data=data)])
    if has_config:
        tags = '<Image name="l" value="$image1"/><Image name="r" value="$image2"/>'
        folder.add("tasks/label_config.xml", f"<View>{tags}<RectangleLabels name='b' toName='l'/></View>")
        folder.add_images("tasks/left.jpg", "tasks/right.jpg")
        assert describe(Folder(folder.path / "tasks").read()) == {"left.jpg": [CAR], "right.jpg": [BUS]}
        return
    with pytest.raises(ValueError, match=r"several images \(image1, image2\).*label_config.xml beside the export"):
        Folder(folder.path / "tasks").read()


@pytest.mark.situation("S4", "a result about no image of its task makes both uncertain")
@pytest.mark.parametrize("name", ["img3", None])
def test_a_result_about_an_unknown_image_is_on_none(folder: Folder, name: Any) -> None:
    data = {"img1": LEFT, "img2": RIGHT}
    results = [about("img1", "car"), about("img2", "bus"), about(name, "tram")]
    dataset = folder.add("t.json", [make_task(*results, data=data)]).read()
    assert describe(dataset) == {"left.jpg": [CAR], "right.jpg": [BUS]}
    assert "t.json: task 1, result tram: it is about" in list_reasons(dataset)
    assert list_tasks(dataset, "left.jpg") == list_tasks(dataset, "right.jpg") == set()


@pytest.mark.situation("S4", "pages of one value")
def test_results_go_to_the_page_that_they_name(folder: Folder) -> None:
    results = [about("pages", "car", item_index=0), about("pages", "bus", item_index=1)]
    task = make_task(*results, about("pages", "tram"), data={"pages": [LEFT, RIGHT]})
    dataset = folder.add("t.json", [task]).read()
    assert describe(dataset) == {"left.jpg": [CAR], "right.jpg": [BUS]}
    assert "result tram: its item_index is None, and its task has 2 images" in list_reasons(dataset)


@pytest.mark.situation("S4", "pages of a value whose name is not that of the image; one without an object")
def test_all_pages_are_labeled(folder: Folder) -> None:
    task = make_task(about("pdf", "car", item_index=0), data={"pages": [LEFT, RIGHT]})
    dataset = folder.add("t.json", [task]).read()
    assert (describe(dataset), dataset.unusable) == ({"left.jpg": [CAR], "right.jpg": []}, ())
    assert list_tasks(dataset, "left.jpg") == list_tasks(dataset, "right.jpg") == {"<OD>"}


@pytest.mark.situation("S4", "one image, whatever its name")
@pytest.mark.parametrize(
    "data",
    [{"img": "/data/upload/1/1a2b3c4d-a.jpg"}, {"img": "/data/upload/1/1a2b3c4d-a.jpg", "name": "a.jpg", "text": "x"}],
)
def test_a_single_image_needs_no_name(folder: Folder, data: dict[str, str]) -> None:
    dataset = folder.add("t.json", [make_task(about("image", "car"), data=data)]).read()
    assert (describe(dataset), dataset.unusable) == ({"a.jpg": [CAR]}, ())
    assert list_tasks(dataset, "a.jpg") == {"<OD>"}


@pytest.mark.situation("A5", "the export JSON-MIN is refused with advice")
def test_a_minimal_export_is_refused(folder: Folder) -> None:
    row = {"image": "/data/upload/1/a.jpg", "id": 1, "label": [], "annotator": 1, "annotation_id": 1, "lead_time": 3.2}
    with pytest.raises(ValueError, match="JSON-MIN, which does not say enough: export as JSON"):
        folder.add("t.json", [row]).read()


@pytest.mark.situation("A8", "images that the tasks contain")
def test_embedded_images_are_read(folder: Folder) -> None:
    def embed(size: tuple[int, int]) -> str:
        buffer = io.BytesIO()
        Image.new("RGB", size).save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    addresses = (embed((200, 100)), embed((100, 200)), "data:image/png;base64,?")
    tasks = [make_task(about("image", "car"), data={"image": each, "name": "a.jpg"}) for each in addresses]
    dataset = folder.add("t.json", [{**task, "id": number} for number, task in enumerate(tasks, start=7)]).read()
    assert describe(dataset) == {"task-7": [CAR]}
    assert [each.source for each in dataset.unusable] == ["t.json: task 8", "t.json: task 9"]
    both = make_task(about("img1", "car"), about("img2", "bus"), data={"img1": addresses[0], "img2": addresses[0]})
    assert describe(folder.add("t.json", [both]).read()) == {"task-1-img1-0": [CAR], "task-1-img2-0": [BUS]}


@pytest.mark.situation("A5", "several annotators, ground truth, skipped tasks, drafts, predictions")
@pytest.mark.parametrize(
    ("task", "expected", "reason"),
    [
        (
            {"annotations": [
                {"id": 1, "result": [about("image", "car")], "updated_at": "2026-01-01"},
                {"id": 2, "result": [about("image", "bus")], "updated_at": "2026-02-01"},
            ]}, [BUS], "task 1, annotation 1: another annotation of the task counts",
        ),
        (
            {"annotations": [
                {"id": 1, "result": [about("image", "car")], "updated_at": "2026-01-01", "ground_truth": True},
                {"id": 2, "result": [about("image", "bus")], "updated_at": "2026-02-01"},
            ]}, [CAR], "task 1, annotation 2: another annotation of the task counts",
        ),
        (
            {"annotations": [{"id": 1, "result": [], "was_cancelled": True}],
             "predictions": [{"id": 1, "result": [about("image", "bus")]}]}, None, "task 1: it was skipped",
        ),
        (
            {"annotations": [], "drafts": [{"result": [about("image", "bus")]}]}, None,
            "task 1: nobody has annotated it: ",
        ),
        (
            {"annotations": [], "predictions": [
                {"id": 8, "result": [about("image", "car")], "created_at": "2026-01-01"},
                {"id": 9, "result": [about("image", "bus")], "created_at": "2026-02-01"},
            ]}, [BUS], "task 1, prediction 8: another prediction of the task counts",
        ),
    ],
    ids=["newest", "ground truth", "skipped", "draft", "predictions"],
)  # fmt: skip
def test_one_annotation_of_a_task_counts(folder: Folder, task: dict[str, Any], expected: Any, reason: str) -> None:
    tasks = [make_task(**task), make_task(about("image", "car"), data={"image": LEFT})]
    dataset = folder.add("t.json", tasks).read()
    assert describe(dataset).get("a.jpg") == expected
    assert reason in list_reasons(dataset)
    assert len(dataset.unusable) == 1


@pytest.mark.situation("A4", "regions of Label Studio: ellipses, points, turned images, texts, several labels")
@pytest.mark.parametrize(
    ("results", "expected", "reason", "tasks"),
    [
        (
            [make_result("ellipselabels", value={"x": 50, "y": 50, "radiusX": 20, "radiusY": 30})],
            [("polygon", "cat", 60, 20, 140, 80)], "", {"<OD>"},
        ),
        ([make_result(label=["cat", "old"])], [("box", "cat", 20, 20, 80, 60)], "second label 'old'", {"<OD>"}),
        (
            [make_result(label=["cat", "dog"]), make_result(label="dog", number="r2", value={"x": 50})],
            [("box", "cat", 20, 20, 80, 60), ("box", "dog", 100, 20, 160, 60)], "second label 'dog'", set(),
        ),
        (
            [make_result("keypointlabels", "nose", "k"), make_result()],
            [("box", "cat", 20, 20, 80, 60)], "result k: keypointlabels cannot be used", {"<OD>"},
        ),
        (
            [make_result("keypointlabels", "cat", "k"), make_result()],
            [("box", "cat", 20, 20, 80, 60)], "result k: keypointlabels cannot be used", set(),
        ),
        (
            [make_result(image_rotation=90), make_result(label="dog", number="r2")],
            [("box", "dog", 20, 20, 80, 60)], "result r1: it was drawn on the image turned by 90°", set(),
        ),
        (
            [make_result(original_width=100), make_result(label="dog", number="r2")],
            [("box", "dog", 20, 20, 80, 60)], "result r1: it is for an image of 100×100 pixels", set(),
        ),
        (
            [make_result(), make_result("choices", "sunny", "c"), make_result("rating", None, "r1")],
            [("box", "cat", 20, 20, 80, 60)], "result c: choices cannot be used", {"<OD>"},
        ),
        (
            [make_result(), {"type": "relation", "from_id": "r1", "to_id": "r1", "direction": "right"}],
            [("box", "cat", 20, 20, 80, 60)], "relation r1 → r1: a relation cannot be used", {"<OD>"},
        ),
        (
            [
                make_result(), make_result("textarea", None, value={"text": ["AB 1"]}),
                make_result(label="cat", number="2"),
            ],
            [("quad", "AB 1", 20, 20, 80, 60), ("box", "cat", 20, 20, 80, 60)],
            "result r1: it is a word, its label 'cat' is not used", {"<OCR_WITH_REGION>"},
        ),
        (
            [
                make_result(), make_result("textarea", None, value={"text": ["AB 1"]}),
                make_result("textarea", None, value={"text": ["dirty"]}), make_result(label="dog", number="r2"),
            ],
            [("box", "dog", 20, 20, 80, 60)], "result r1: it has several texts", {"<OD>"},
        ),
    ],
)  # fmt: skip
def test_regions_of_label_studio(folder: Folder, results: Any, expected: Any, reason: str, tasks: set[str]) -> None:
    dataset = folder.add_images("a.jpg").add("tasks.json", [make_task(*results)]).read()
    assert describe(dataset)["a.jpg"] == expected
    assert reason in list_reasons(dataset)
    assert bool(dataset.unusable) == bool(reason)
    assert list_tasks(dataset, "a.jpg") == tasks
