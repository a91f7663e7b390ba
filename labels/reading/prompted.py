"""A prompt and an answer as they are written → a question."""

import re
from dataclasses import replace
from functools import cache

from labels.reading.checks import LabelError, Size
from labels.sample import Sample
from prompts import locations
from prompts.locations import LOCATION_PATTERN, format_locations
from prompts.parsing import parse_answer
from prompts.tasks import TASKS, InputKind, Task, find_task
from prompts.vocabulary import tokenize_answer

_TOKEN = re.compile(r"\s*(<[A-Za-z][A-Za-z0-9_.-]*>)(.*)", re.DOTALL)


def question(prompt: str, answer: str, size: Size) -> Sample:
    """`prompt`: a task's token and what it takes (`<OD>`, `<VQA>how many?`), or its words as the model reads them;
    `answer`: as the model should say it. Raises ValueError, with the reason."""
    found = asked(prompt, size)
    if found is None:
        raise LabelError(
            f"its prompt {prompt[:60]!r} begins with no task's token, such as <OD>, and is no task's words"
        )
    read = parse_answer(found.task, tokenize_answer(answer), size)
    if read.dropped:
        raise LabelError(f"its answer cannot be read: {read.dropped[0].what}: {read.dropped[0].reason}")
    return replace(found, answer=tuple(note.model_copy(update={"score": None}) for note in read.annotations))


def asked(prompt: str, size: Size) -> Sample | None:
    """What a prompt asks, without an answer; None where it is no task's. Raises ValueError where the task does not
    take what it is given."""
    task, rest = _parted(prompt)
    if task is None:
        return None
    if task.input_kind is InputKind.REGION:
        places = [int(match[1]) for match in LOCATION_PATTERN.finditer(rest)]
        if len(places) != 4 or format_locations(places) != rest.strip():
            raise LabelError(f"{task.token} needs a region, <loc_x1><loc_y1><loc_x2><loc_y2>; it has {rest[:60]!r}")
        x1, y1, x2, y2 = locations.dequantize_points(places, *size)
        found = Sample(task, (), region=(x1, y1, x2, y2))
    else:
        text = rest.strip() if task.token in TASKS else rest
        found = Sample(task, (), text=text or None)
    task.build_prompt(found.text, found.region, size)
    return found


def _parted(prompt: str) -> tuple[Task | None, str]:
    """The task, and what stands in its prompt beside the token or the words."""
    if match := _TOKEN.fullmatch(prompt):
        return find_task(match[1]), match[2]
    # The longest wording first: `Locate {input} in the image.` is also a beginning of others.
    for task, pattern in _wordings():
        if match := pattern.fullmatch(prompt.strip()):
            return task, match[1] if task.input_kind is not InputKind.NOTHING else ""
    return None, ""


@cache
def _wordings() -> list[tuple[Task, re.Pattern[str]]]:
    tasks = sorted(TASKS.values(), key=lambda task: (task.input_kind is InputKind.TEXT, -len(task.template)))
    return [
        (task, re.compile(re.escape(task.template).replace(re.escape("{input}"), "(.+)"), re.DOTALL)) for task in tasks
    ]
