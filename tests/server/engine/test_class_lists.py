"""Requests that are held to a class list."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from prompts.class_lists import ClassList
from prompts.label_lists import MAX_LABELS
from prompts.tasks import TASKS
from server.engine.adapters.class_list import write_class_list
from server.engine.class_lists import find_adapter_class_list, hold_class_list
from server.engine.engine import Engine
from server.engine.request import Constraint
from tests.server.engine import reference
from tests.server.engine.engines import WAIT, create_request
from tests.server.engine.tiny import create_image, save_adapter

CLASSES = ClassList(("cactus", "octopus"), "project plants")
HELD = ("<OD>", "<REGION_TO_CATEGORY>")


@pytest.mark.parametrize("token", TASKS)
def test_only_answers_of_classes_are_held(token: str) -> None:
    request = reference.create_request(token, create_image())
    held = hold_class_list(request, CLASSES)
    assert held == replace(request, constrain=Constraint(labels=CLASSES.names) if token in HELD else None)


@pytest.mark.parametrize(
    ("own", "held"),
    [
        (None, Constraint(labels=CLASSES.names)),
        (Constraint(grammar=True), Constraint(labels=CLASSES.names)),
        (Constraint(grammar=False), Constraint(grammar=False, labels=CLASSES.names)),
        (Constraint(labels=("cat",)), Constraint(labels=("cat",))),
    ],
)
def test_labels_of_the_request_come_first(own: Constraint | None, held: Constraint) -> None:
    request = replace(create_request(), constrain=own)
    assert hold_class_list(request, CLASSES).constrain == held


def test_what_cannot_be_held_stays_free() -> None:
    request = create_request()
    for names in ((), tuple(map(str, range(MAX_LABELS + 1))), ("a<loc_1>",)):
        assert hold_class_list(request, ClassList(names, "adapter a")) is request
    assert hold_class_list(request, None) is request


def test_a_compiled_constraint_stays(engine: Engine) -> None:
    compiled = engine.compile_constraint(TASKS["<OD>"], Constraint(labels=("cat",)))
    request = replace(create_request(), constrain=compiled)
    assert hold_class_list(request, CLASSES) is request


def test_a_held_answer_names_only_the_classes(engine: Engine) -> None:
    for seed in range(4):
        request = create_request(seed=seed, limit=40)
        result = engine.submit(hold_class_list(request, CLASSES)).wait(WAIT)
        assert {annotation.label for annotation in result.annotations} <= set(CLASSES.names)
        assert not result.dropped
    assert engine.find_constraint(TASKS["<OD>"], Constraint(labels=CLASSES.names))  # compiled once, for all


def test_the_list_of_an_ensemble_is_the_union_of_its_members(engine: Engine, tmp_path: Path) -> None:
    saved = save_adapter(tmp_path / "saved", target_modules=r".*fc1")
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cow"]), ("c", [])):
        folder = shutil.copytree(saved, tmp_path / name)
        write_class_list(folder, classes)
        engine.load_adapter(name, folder)
    assert find_adapter_class_list(engine, ["a"]) == ClassList(("cat", "dog"), "adapter a")
    union = ClassList(("cat", "dog", "cow"), "adapter a and adapter b")
    assert find_adapter_class_list(engine, ["a", None, "b", "c", "missing"]) == union
    assert find_adapter_class_list(engine, ["c", None, "missing"]) is None
    assert find_adapter_class_list(SimpleNamespace(), [None]) is None  # type: ignore[arg-type]
