"""Holds requests to a class list. Imports no torch.

The answer has only classes of the list. The model itself may say the other classes that it knows, too: held to fewer,
it would name a cat as a car (docs/measurements/class-lists.md). What it says of other classes is left out of the answer
and counted. A model that says nowhere what it knows is free to say anything.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from prompts.class_lists import ClassList, join_class_lists
from server.engine.answer_handles import AnswerHandle
from server.engine.kept_classes import KeptClassesHandle
from server.engine.request import Constraint, Request

if TYPE_CHECKING:
    from server.engine.engine import Engine


def submit_held(
    submit: Callable[[Request], AnswerHandle], request: Request, class_list: ClassList | None, known: Sequence[str]
) -> AnswerHandle:
    """Submits a request by `submit`, held to the list. Its answer has only classes of the list, see `keep_classes`.

    `known`: the classes that the model knows, of `list_known_classes`. Raises what `submit` does.
    """
    return keep_classes(submit(hold_class_list(request, class_list, known)), request, class_list)


def hold_class_list(request: Request, class_list: ClassList | None, known: Sequence[str]) -> Request:
    """Returns the request with its labels constrained to those of the list and those that the model knows.

    Returns it unchanged if there is no list, it does not take one (`takes_class_list`), nobody knows what the model
    knows, or the names cannot be held (`ClassList.warning` then says why).
    """
    if class_list is None or not known or not takes_class_list(request):
        return request
    held = class_list.add(known)
    if held.problem is not None:
        return request
    constrain = request.constrain if isinstance(request.constrain, Constraint) else Constraint()
    return replace(request, constrain=replace(constrain, labels=held.names))


def keep_classes(handle: AnswerHandle, request: Request, class_list: ClassList | None) -> AnswerHandle:
    """Returns a handle whose answer has only classes of the list; `Result.left_out` has the others.

    Returns the same handle if there is no list, it is open, or the request does not take one.
    """
    if class_list is None or class_list.is_open or not takes_class_list(request):
        return handle
    return KeptClassesHandle(handle, class_list)


def takes_class_list(request: Request) -> bool:
    """Returns whether a class list holds for a request: the task's labels are classes, and the request has no labels of
    its own or a compiled constraint."""
    constrain = request.constrain
    is_free = constrain is None or (isinstance(constrain, Constraint) and constrain.labels is None)
    return request.task.answers_classes and is_free


def list_known_classes(engine: "Engine", adapter: str | None) -> tuple[str, ...]:
    """Returns the classes that a model knows: those in the lists of the checkpoint and of the adapter. Empty if nobody
    knows: the checkpoint alone has no list, or the adapter has none, or is not loaded."""
    base = engine.checkpoint.class_list
    if adapter is None:
        return base
    own = next((each.class_list for each in engine.list_adapters() if each.name == adapter), ())
    return tuple(dict.fromkeys((*own, *base))) if own else ()


def find_adapter_class_list(engine: "Engine", names: Iterable[str | None]) -> ClassList | None:
    """Returns the class list of one or several adapters that answer together: the union of theirs. None: no list.

    `names`: of adapters in the engine; None for the base model, whose list joins those of adapters. The list is open if
    one of them has none.
    """
    if not any(members := list(names)):
        return None
    loaded = {adapter.name: adapter.class_list for adapter in engine.list_adapters()}
    checkpoint = engine.checkpoint
    lists = [
        ClassList(loaded.get(name, ()), f"adapter {name}")
        if name
        else ClassList(checkpoint.class_list, f"model {checkpoint.name}")
        for name in members
    ]
    if not any(each.names for each, name in zip(lists, members, strict=True) if name):
        return None
    joined = join_class_lists(each for each in lists if each.names)
    return joined and replace(joined, is_open=not all(each.names for each in lists))
