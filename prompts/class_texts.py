"""Several classes in one prompt: the text of a task such as `<OPEN_VOCABULARY_DETECTION>` names them, separated by
commas or as a list. The model reads one at a time, so they are asked for one by one."""

import json
from collections.abc import Sequence

from prompts.tasks import PromptError, Task


def split_classes(task: Task, text: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the texts to ask for one by one if `text` names several classes, otherwise nothing.

    A task that takes classes splits a text at its commas, except in a list: `["a man, smiling"]` is one class. The list
    may also be JSON in a text, as forms, command lines and recipes have it. Blank parts and repeated classes are left
    out. The annotations of each answer get the class as their label. Raises PromptError for a text without any class,
    and for a list that the task does not take or that has blank entries.
    """
    if isinstance(text, str) and task.takes_classes:
        text = _parse_list(text)
    if isinstance(text, str) or text is None:
        if text is None or "," not in text or not task.takes_classes:
            return ()
        if classes := tuple(dict.fromkeys(part for each in text.split(",") if (part := each.strip()))):
            return classes
        raise PromptError(f"{task.token} needs text: what to look for", "text")
    if not task.takes_classes:
        raise PromptError(f"{task.token} takes one text, not a list; send one prompt for each text", "text")
    if not text or not all(each.strip() for each in text):
        raise PromptError("the list of classes is empty, or one of them is blank; leave it out", "text")
    return tuple(dict.fromkeys(each.strip() for each in text))


def _parse_list(text: str) -> str | list[str]:
    """Returns the list of a text such as `["hat", "book"]`; others unchanged."""
    if text.lstrip().startswith("["):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return text
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return value
    return text
