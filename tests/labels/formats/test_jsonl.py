import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets as hf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from finetune.datasets.samples import find_trainable_tasks
from labels.dataset import DatasetError
from labels.label_kind import LabelKind
from labels.labeled_image import LabeledImage, TracedAnnotation
from labels.opening import open_dataset
from labels.sample import Sample
from labels.writing.image_options import ImagePlacement
from prompts.annotations import Annotation, Box, Polygon, Quad, Text
from prompts.formatting import format_answer
from prompts.tasks import TASKS, find_task
from tests.labels.samples import boxes, captions, export, lists_of_images, make_example_images, polygons, quads, some

Save = Callable[..., Path]
BOX = {"kind": "box", "label": "cat", "score": 0.5, "box": [10, 20, 30, 40]}


def write_lines(save: Save, *rows: str) -> Path:
    return save("data.jsonl", "\n".join(rows) + "\n")


def format_sample(prefix: str, suffix: str, image: str = "a.png") -> str:
    return f'{{"image": "{image}", "prefix": "{prefix}", "suffix": "{suffix}"}}'


def format_image(*annotations: str, **more: Any) -> str:
    extra = "".join(f', "{key}": {value}' for key, value in more.items())
    labels_json = ", ".join(f'{{"annotation": {each}}}' for each in annotations)
    return f'{{"name": "a.png", "width": 100, "height": 80, "labels": [{labels_json}]{extra}}}'


def test_the_writers_own_lines_are_read(save: Save) -> None:
    save("a.png")
    ring = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0]
    path = write_lines(
        save,
        format_image(
            '{"kind": "box", "label": "cat", "score": 0.5, "box": [10, 20, 30, 40]}',
            f'{{"kind": "polygon", "label": "dog", "score": null, "polygons": [{ring}]}}',
            '{"kind": "quad", "label": "A\\nB", "quad": [1, 1, 9, 1, 9, 5, 1, 5]}',
            '{"kind": "text", "label": "a cat"}',
        ),
    )
    dataset = open_dataset(path)
    assert dataset.unusable == ()
    (example,) = dataset.images
    assert example.annotations == (
        Box(label="cat", box=(10, 20, 30, 40)),
        Polygon(label="dog", polygons=[ring]),
        Quad(label="A B", quad=(1, 1, 9, 1, 9, 5, 1, 5)),
        Text(label="a cat"),
    )
    assert example.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
    assert example.source == "data.jsonl:1"


def test_texts_about_a_region_become_samples(save: Save) -> None:
    save("a.png")
    region = TASKS["<REGION_TO_CATEGORY>"].build_prompt(region=(10, 20, 30, 40), size=(100, 80))
    labels = [
        ("a cat", TASKS["<CAPTION>"].template),
        ("cat", region),
        ("STOP", TASKS["<OCR>"].template),
        ("red", "<VQA>?"),
    ]
    labels_json = ", ".join(
        f'{{"annotation": {{"kind": "text", "label": "{label}"}}, "prompt": "{prompt}"}}' for label, prompt in labels
    )
    (example,) = open_dataset(write_lines(save, f'{{"name": "a.png", "labels": [{labels_json}]}}')).images
    assert example.annotations == (Text(label="a cat"),)
    category, read, answered = example.samples
    assert category.task.token == "<REGION_TO_CATEGORY>"
    assert category.region == pytest.approx((10, 20, 30, 40), abs=0.1)
    assert read == Sample(TASKS["<OCR>"], (Text(label="STOP"),))
    assert answered == Sample(find_task("<VQA>"), (Text(label="red"),), text="?")


def test_a_line_can_state_which_kinds_are_complete(save: Save) -> None:
    save("a.png")
    box = '{"kind": "box", "label": "cat", "box": [10, 20, 30, 40]}'
    (example,) = open_dataset(write_lines(save, format_image(box, complete='["words"]'))).images
    assert example.complete == {LabelKind.WORDS}
    (example,) = open_dataset(write_lines(save, format_image(box, complete="[]"))).images
    assert example.complete == set()


def test_prompts_with_answers_are_read(save: Save) -> None:
    save("a.png"), save("b.png"), save("c.png")
    path = write_lines(
        save,
        format_sample("<OD>", "cat<loc_100><loc_200><loc_300><loc_400><loc_0><loc_0><loc_500><loc_500>"),
        format_sample("<CAPTION>", "two cats"),
        format_sample("<VQA>how many?", "2"),
        format_sample("<OCR_WITH_REGION>", "A<loc_0><loc_0><loc_99><loc_0><loc_99><loc_99><loc_0><loc_99>"),
        format_sample("<REGION_TO_CATEGORY><loc_100><loc_200><loc_300><loc_400>", "cat", "b.png"),
        format_sample("<OD>", "", "c.png"),
        format_sample("What does the image describe?", "three cats"),
    )
    dataset = open_dataset(path)
    assert dataset.unusable == ()
    a, b, c = dataset.images
    assert a.annotations == (
        Box(label="cat", box=(10.05, 16.04, 30.05, 32.04)),
        Box(label="cat", box=(0.05, 0.04, 50.05, 40.04)),
        Quad(label="A", quad=(0.05, 0.04, 9.95, 0.04, 9.95, 7.96, 0.05, 7.96)),
    )
    assert a.samples == (
        Sample(TASKS["<CAPTION>"], (Text(label="two cats"),)),
        Sample(find_task("<VQA>"), (Text(label="2"),), text="how many?"),
        Sample(TASKS["<CAPTION>"], (Text(label="three cats"),)),
    )
    assert a.complete == {LabelKind.OBJECTS, LabelKind.WORDS}
    assert b.samples[0].region == pytest.approx((10.05, 16.04, 30.05, 32.04))
    assert b.complete == set()
    assert c.complete == {LabelKind.OBJECTS}
    assert "<OD>" in find_trainable_tasks(c)


def test_formatted_answers_are_parsed_back(save: Save) -> None:
    save("a.png")
    prompt = "<OPEN_VOCABULARY_DETECTION>cat"
    answer = "cat<poly><loc_1><loc_2><loc_300><loc_2><loc_300><loc_400></poly>cat<loc_100><loc_200><loc_300><loc_400>"
    (example,) = open_dataset(write_lines(save, format_sample(prompt, answer))).images
    (sample,) = example.samples
    written = format_answer(sample.task, sample.answer, example.size)
    assert written == answer.replace("</poly>cat", "</poly>")


def test_lines_of_paligemma_are_read(save: Save) -> None:
    save("a.png"), save("b.png"), save("c.png")
    path = write_lines(
        save,
        format_sample(
            "detect cat ; fire hydrant",
            "<loc0256><loc0512><loc0768><loc1023> cat ; <loc0000><loc0000><loc0512><loc0512> fire hydrant",
        ),
        format_sample("caption en", "a cat"),
        format_sample("detect cat", "", "b.png"),
        format_sample("detect fire hydrant", "", "b.png"),
        format_sample("detect cat", "", "c.png"),
    )  # fmt: skip
    dataset = open_dataset(path)
    assert [each.name for each in dataset.images] == ["a.png", "b.png"]
    assert dataset.images[0].annotations == (
        Box(label="cat", box=(50, 20, 1023 / 1024 * 100, 60)),
        Box(label="fire hydrant", box=(0, 0, 50, 40)),
        Text(label="a cat"),
    )
    assert [each.complete for each in dataset.images] == [{LabelKind.OBJECTS}, {LabelKind.OBJECTS}]
    assert [str(each) for each in dataset.unusable] == ["data.jsonl:5: it has no labels"]


def test_unusable_entries_name_the_line(save: Save) -> None:
    save("a.png")
    path = write_lines(
        save,
        format_sample("<OD>", "cat<loc_100><loc_200><loc_300><loc_400>"),
        "{",
        "[1]",
        '{"image": "a.png", "prefix": "<OD>"}',
        format_sample("<OD>", "cat<loc_100><loc_200><loc_300>"),
        format_sample("<ODD>", "cat"),
        format_sample("<OD>", "cat<loc_100><loc_200><loc_100><loc_400>"),
        format_sample("what is this", "cat"),
        format_sample("<REGION_TO_CATEGORY>", "cat"),
        format_sample("<OD>what", "cat"),
        format_sample("<OD>", "cat<loc_100><loc_200><loc_300><loc_400>", "missing.png"),
        format_sample("detect cat", "<loc0256><loc0512><loc0768> cat"),
        format_sample("segment cat", "<loc0256><loc0512><loc0768><loc0001><seg001>"),
        format_image('{"kind": "box", "label": "cat", "box": [10, 20, 30, 40]}'),
        '{"name": 5, "labels": []}',
        format_sample("<OD>", "\\ud800<loc_100><loc_200><loc_300><loc_400>"),
    )
    dataset = open_dataset(path)
    (example,) = dataset.images
    assert len(example.annotations) == 2  # of line 1, and of line 14 about the same file
    assert example.complete == set()
    lines = [*range(2, 14), 15, 16]
    assert [each.source.split(",")[0] for each in dataset.unusable] == [f"data.jsonl:{n}" for n in lines]


def test_bad_labels_are_listed_with_their_position(save: Save) -> None:
    save("a.png")
    annotations = [
        '{"kind": "box", "label": "cat", "box": [10, 20, 30, 40]}',
        '{"kind": "box", "label": "", "box": [10, 20, 30, 40]}',
        '{"kind": "box", "label": "cat", "box": [10, 20, NaN, 40]}',
        '{"kind": "box", "label": "cat", "box": [10, 20, 5, 40]}',
        '{"kind": "circle", "label": "cat"}',
        '{"kind": "polygon", "label": "cat", "polygons": []}',
        "null",
        '{"kind": "text", "label": " "}',
    ]
    dataset = open_dataset(write_lines(save, format_image(*annotations)))
    assert [each.source for each in dataset.unusable] == [f"data.jsonl:1, label {n}" for n in range(1, 8)]


def test_several_files_must_be_chosen_from(save: Save) -> None:
    save("a.png")
    save("one.jsonl", format_sample("<CAPTION>", "a cat"))
    path = save("two.jsonl", format_sample("<CAPTION>", "a cat"))
    with pytest.raises(DatasetError, match=r"one.jsonl, .*two.jsonl"):
        open_dataset(path.parent)
    assert len(open_dataset(path).images) == 1


@pytest.mark.parametrize("content", ["", "\n\n", b"\x00\x01\xff", "nothing", "{}", '{"name": null, "labels": null}'])
def test_an_empty_file_is_refused(save: Save, content: Any) -> None:
    with pytest.raises(DatasetError):
        open_dataset(save("data.jsonl", content))


def test_splits_side_by_side_are_one_dataset(save: Save) -> None:
    for split in ("train", "valid"):
        save(f"{split}/a.png")
        root = save(f"{split}/annotations.jsonl", format_sample("<CAPTION>", "a cat")).parent.parent
    dataset = open_dataset(root)
    assert [each.name for each in dataset.images] == ["train/a.png", "valid/a.png"]
    assert [each.source for each in dataset.images] == ["train/annotations.jsonl:1", "valid/annotations.jsonl:1"]


def test_images_with_samples_only_are_not_complete(save: Save) -> None:
    save("a.png")
    (example,) = open_dataset(
        write_lines(save, format_sample("<VQA>how many?", "two"), format_sample("caption en", "two cats"))
    ).images
    assert example.complete == set()
    assert find_trainable_tasks(example) == {"<VQA>", "<CAPTION>"}


# Writing

ANNOTATION: TypeAdapter[Annotation] = TypeAdapter(Annotation)


def read_images(path: Path) -> list[LabeledImage]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    return [
        LabeledImage.from_traces(
            traces=[
                TracedAnnotation(**{**label, "annotation": ANNOTATION.validate_python(label["annotation"])})
                for label in row.pop("labels")
            ],
            **row,
        )
        for row in rows
    ]


@some
@given(lists_of_images(st.one_of(boxes(), quads(), polygons(), captions())))
def test_json_lines_lose_nothing(images: list[LabeledImage]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = export("jsonl", images, Path(folder, "out.jsonl"), placement=ImagePlacement.NONE)
        assert read_images(Path(folder, "out.jsonl")) == images
        assert report.annotations == sum(len(image.traces) for image in images)


def test_the_origin_of_annotations_is_kept(tmp_path: Path) -> None:
    export("jsonl", make_example_images(), tmp_path / "out.jsonl", placement=ImagePlacement.NONE)
    assert read_images(tmp_path / "out.jsonl") == make_example_images()


def test_names_with_half_a_surrogate_pair_are_kept(tmp_path: Path) -> None:
    images = [LabeledImage.from_traces("half \udcff\n\u2028.png", 4, 4, sha256="0")]
    export("jsonl", images, tmp_path / "out.jsonl", placement=ImagePlacement.NONE)
    assert read_images(tmp_path / "out.jsonl") == images


def test_datasets_reads_every_line(tmp_path: Path) -> None:
    export("jsonl", make_example_images(), tmp_path / "out.jsonl", placement=ImagePlacement.NONE)
    cache = str(tmp_path / "cache")
    rows = hf.load_dataset("json", data_files=str(tmp_path / "out.jsonl"), split="train", cache_dir=cache)
    assert [row["name"] for row in rows] == ["a/1.png", "b.png"]
    fields = asdict(make_example_images()[0].traces[0]) | {"annotation": None}
    assert {**rows[0]["labels"][0], "annotation": None} == fields
