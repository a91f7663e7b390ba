"""Requests that are held to a class list."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from prompts.class_lists import ClassList
from prompts.label_lists import MAX_LABELS
from prompts.tasks import TASKS
from server.engine.adapters.class_list import CLASS_LIST_FILE, write_class_list
from server.engine.checkpoints.loading import load_checkpoint
from server.engine.class_lists import find_adapter_class_list, hold_class_list, list_known_classes, submit_held
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.request import Constraint
from tests.server.engine import reference
from tests.server.engine.engines import WAIT, create_request, force_answer
from tests.server.engine.tiny import create_image, create_tiny_model, save_adapter, save_checkpoint

CLASSES = ClassList(("cactus", "octopus"), "project plants")
KNOWN = ("cactus", "dog")
NAMES = ("cactus", "octopus", "dog")
HELD = ("<OD>", "<REGION_TO_CATEGORY>")


@pytest.mark.parametrize("token", TASKS)
def test_only_answers_of_classes_are_held(token: str) -> None:
    request = reference.create_request(token, create_image())
    held = hold_class_list(request, CLASSES, KNOWN)
    assert held == replace(request, constrain=Constraint(labels=NAMES) if token in HELD else None)


@pytest.mark.parametrize(
    ("own", "held"),
    [
        (None, Constraint(labels=NAMES)),
        (Constraint(grammar=True), Constraint(labels=NAMES)),
        (Constraint(grammar=False), Constraint(grammar=False, labels=NAMES)),
        (Constraint(labels=("cat",)), Constraint(labels=("cat",))),
    ],
)
def test_labels_of_the_request_come_first(own: Constraint | None, held: Constraint) -> None:
    request = replace(create_request(), constrain=own)
    assert hold_class_list(request, CLASSES, KNOWN).constrain == held


def test_what_cannot_be_held_stays_free() -> None:
    request = create_request()
    for names in (tuple(map(str, range(MAX_LABELS + 1))), ("a<loc_1>",)):
        assert hold_class_list(request, ClassList(names, "adapter a"), ("cat",)) is request
    assert hold_class_list(request, None, KNOWN) is request
    assert hold_class_list(request, CLASSES, ()) is request  # nobody knows what the model may say


def test_a_compiled_constraint_stays(engine: Engine) -> None:
    compiled = engine.compile_constraint(TASKS["<OD>"], Constraint(labels=("cat",)))
    request = replace(create_request(), constrain=compiled)
    assert hold_class_list(request, CLASSES, KNOWN) is request


def test_a_held_answer_names_only_the_classes(engine: Engine) -> None:
    for seed in range(4):
        request = create_request(seed=seed, limit=40)
        result = submit_held(engine.submit, request, CLASSES, KNOWN).wait(WAIT)
        assert {annotation.label for annotation in result.left_out} <= {"dog"}
        assert {annotation.label for annotation in result.annotations} <= set(CLASSES.names)
        assert not result.dropped
    assert engine.find_constraint(TASKS["<OD>"], Constraint(labels=NAMES))  # compiled once, for all


def test_the_list_of_an_ensemble_is_the_union_of_its_members(engine: Engine, tmp_path: Path) -> None:
    saved = save_adapter(tmp_path / "saved", target_modules=r".*fc1")
    for name, classes in (("a", ["cat", "dog"]), ("b", ["dog", "cow"]), ("c", [])):
        folder = shutil.copytree(saved, tmp_path / name)
        write_class_list(folder, classes)
        engine.load_adapter(name, folder)
    assert find_adapter_class_list(engine, ["a"]) == ClassList(("cat", "dog"), "adapter a")
    union = ClassList(("cat", "dog", "cow"), "adapter a and adapter b")
    assert find_adapter_class_list(engine, ["a", "b"]) == union
    for other in (None, "c", "missing"):  # without a list: what it names is kept
        assert find_adapter_class_list(engine, ["a", other, "b"]) == replace(union, is_open=True)
    assert find_adapter_class_list(engine, ["c", None, "missing"]) is None
    assert find_adapter_class_list(SimpleNamespace(), [None]) is None  # type: ignore[arg-type]
    assert [list_known_classes(engine, name) for name in (None, "a", "c", "missing")] == [(), ("cat", "dog"), (), ()]


def test_a_checkpoint_with_a_class_list_knows_its_classes(tmp_path: Path) -> None:
    base = save_checkpoint(tmp_path / "base", create_tiny_model())
    write_class_list(base, ["horse", "cat"])
    folder = save_adapter(tmp_path / "a", target_modules=r".*fc1")
    with Engine.load(EngineConfig(str(base), device="cpu")) as engine:
        engine.load_adapter("free", folder)
        write_class_list(folder, ["cat", "dog"])
        engine.load_adapter("a", folder)
        known = [list_known_classes(engine, name) for name in (None, "a", "free")]
        assert known == [("horse", "cat"), ("cat", "dog", "horse"), ()]
        both = find_adapter_class_list(engine, ["a", None])
        assert both == ClassList(("cat", "dog", "horse"), f"adapter a and model {base}")
    (base / CLASS_LIST_FILE).write_text("[")
    assert load_checkpoint(str(base)).class_list == ()  # it may be another program's


async def test_objects_of_other_classes_are_left_out_of_results_and_streams(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = ["".join(f"<loc_{100 * number + i}>" for i in (1, 2, 30, 40)) for number in range(3)]
    names = ("a Cat", "dog", "cat")
    force_answer(monkeypatch, "".join(map("".join, zip(names, boxes, strict=True))) + "</s>", engine)
    request = create_request(limit=40)
    free = engine.submit(request).wait(WAIT)
    wanted = ClassList(("Cat", "cow"), "project one")  # case and articles do not count
    handle = submit_held(engine.submit, request, wanted, ())
    result = await handle.result()
    assert [each.label for each in result.annotations] == ["Cat", "Cat"]
    assert [each.label for each in result.left_out] == ["dog"]
    assert [each async for each in handle.stream()] == result.annotations
    assert handle.wait(WAIT) == result
    assert (result.text, handle.done()) == (free.text, True)
