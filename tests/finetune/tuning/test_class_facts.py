"""What a run knows about its classes."""

from pathlib import Path

from finetune.tuning.class_facts import (
    add_found,
    add_start_classes,
    choose_class_list,
    count_classes,
    count_found,
    list_new,
    list_rare,
)
from labels.labeled_image import LabeledImage
from labels.sample import Sample
from prompts.annotations import Box, Quad, Text
from prompts.tasks import TASKS
from server.engine.adapters.class_list import write_class_list


def make_box(label: str, left: float = 0.0) -> Box:
    return Box(label=label, box=(left, 0, left + 10, 10))


def make_image(name: str, *labels: str) -> LabeledImage:
    boxes = tuple(make_box(label, 20.0 * i) for i, label in enumerate(labels))
    words = (Quad(label="EXIT", quad=(0, 0, 9, 0, 9, 9, 0, 9)), Text(label="a caption"))
    return LabeledImage(name, name, 100, 100, (*boxes, *words), Path("none.png").open)


def test_images_and_objects_are_counted_and_classes_are_known_or_new() -> None:
    images = [make_image("a", "cat", "cat", "cactus"), make_image("b", "Dog")]
    facts = count_classes(images, ("cat", "cactus", "Dog", "owl"), ("cat", "dog"))
    assert [(each.name, each.images, each.objects, each.known) for each in facts] == [
        ("cat", 1, 2, True), ("cactus", 1, 1, False), ("Dog", 1, 1, True), ("owl", 0, 0, False),
    ]  # fmt: skip
    assert [each.name for each in list_new(facts)] == ["cactus", "owl"]
    assert [each.name for each in list_rare(facts)] == ["owl", "cactus", "cat", "Dog"]


def test_a_base_of_unknown_classes_knows_those_that_it_finds() -> None:
    facts = count_classes([], ("cat", "cactus", "owl"))
    found = {"cat": (2, 3), "cactus": (0, 2)}
    assert [each.known for each in add_found(facts, found)] == [True, False, None]
    assert [each.found for each in add_found(facts, found)] == [(2, 3), (0, 2), None]
    # What a base was trained on does not depend on what it finds.
    assert [each.known for each in add_found(count_classes([], ("cat", "cactus"), ("cactus",)), found)] == [False, True]


def test_found_objects_have_the_right_class_and_place() -> None:
    truth = (make_box("cat"), make_box("cat", 40), make_box("dog", 70))
    answer = [make_box("cat", 1), make_box("dog", 40)]
    assert count_found(answer, Sample(TASKS["<OD>"], truth)) == {"cat": (1, 2), "dog": (0, 1)}
    assert count_found([], Sample(TASKS["<CAPTION>"], (Text(label="a cat"),))) == {}


def test_the_classes_of_the_start_adapter_are_kept(tmp_path: Path) -> None:
    write_class_list(tmp_path, ("cat", "dog"))
    class_list = choose_class_list(("cactus", "cat"), str(tmp_path))
    assert class_list is not None
    assert class_list.names == ("cactus", "cat", "dog")
    assert choose_class_list((), "") is None
    assert add_start_classes(("bird",), str(tmp_path)) == ("bird", "cat", "dog")
    assert add_start_classes(None, str(tmp_path)) is None
