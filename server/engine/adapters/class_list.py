"""The class list of an adapter or a checkpoint: the classes that it was trained on, in a file beside its weights, and
the tokens of tasks that only it knows."""

import json
from collections.abc import Iterable
from pathlib import Path

from prompts.class_lists import clean_class_names
from prompts.tasks import TASKS
from prompts.text import truncate

CLASS_LIST_FILE = "class_list.json"
"""`{"classes": ["cactus", "octopus"]}`, beside `adapter_config.json` or `config.json`.

`"tasks": ["<VQA>"]` names tasks of its own."""
MAX_CLASS_LIST_BYTES = 1 << 20  # a list that answers can be held to has 64 KiB at most


class ClassListFileError(ValueError):
    """The file of a class list cannot be used. The message says how to fix it."""


def read_class_list(folder: Path) -> tuple[str, ...]:
    """Returns the classes in a folder of weights: distinct, without white space around them. Empty without a file.

    A list may be too long to hold answers to it; see `ClassList.problem`. Raises ClassListFileError for a broken file.
    """
    path = folder / CLASS_LIST_FILE
    try:
        if (size := path.stat().st_size) > MAX_CLASS_LIST_BYTES:
            raise ClassListFileError(
                f"its {CLASS_LIST_FILE} has {size:,} bytes; the limit is {MAX_CLASS_LIST_BYTES:,}, name fewer classes"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ClassListFileError):
            raise
        reason = truncate(str(error), 200)
        raise ClassListFileError(f"its {CLASS_LIST_FILE} cannot be read: {reason}; fix or remove the file") from error
    names = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ClassListFileError(
            f'its {CLASS_LIST_FILE} is not an object such as {{"classes": ["cat", "dog"]}}; fix or remove the file'
        )
    return clean_class_names(names)


def write_class_list(folder: Path, names: Iterable[str], tasks: Iterable[str] = ()) -> None:
    """Writes the classes into a folder of weights, atomically. Without any class or task, removes the file.

    `tasks`: the tokens that it was trained on. Those of the table are left out; `read_task_tokens` finds the others.
    Raises OSError.
    """
    path, content = folder / CLASS_LIST_FILE, {"classes": list(clean_class_names(names))}
    if own_tasks := [task for task in dict.fromkeys(tasks) if task not in TASKS]:
        content["tasks"] = own_tasks
    if not any(content.values()):
        path.unlink(missing_ok=True)
        return
    temporary = folder / f".{CLASS_LIST_FILE}"
    temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
