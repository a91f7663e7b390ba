"""Holds requests to a class list. Imports no torch."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from prompts.class_lists import ClassList, join_class_lists
from server.engine.request import Constraint, Request

if TYPE_CHECKING:
    from server.engine.engine import Engine


def hold_class_list(request: Request, class_list: ClassList | None) -> Request:
    """Returns the request with its labels constrained to the list.

    Returns it unchanged if there is no list, the task's labels are no classes, the request has labels of its own or a
    compiled constraint, or the list cannot be held (`ClassList.warning` then says why).
    """
    if class_list is None or not request.task.answers_classes or class_list.problem is not None:
        return request
    constrain = Constraint() if request.constrain is None else request.constrain
    if not isinstance(constrain, Constraint) or constrain.labels is not None:
        return request
    return replace(request, constrain=replace(constrain, labels=class_list.names))


def find_adapter_class_list(engine: "Engine", names: Iterable[str | None]) -> ClassList | None:
    """Returns the class list of one or several loaded adapters: the union of those that have one. None: no list.

    `names`: of adapters in the engine. None, for the base model, has no list, as has an adapter that is not loaded.
    """
    if not (named := [name for name in names if name]):
        return None
    loaded = {adapter.name: adapter.class_list for adapter in engine.list_adapters()}
    return join_class_lists(ClassList(classes, f"adapter {name}") for name in named if (classes := loaded.get(name)))
