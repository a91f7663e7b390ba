"""A prompt and an answer as they are written → a question."""

import re
from dataclasses import replace
from functools import cache

from labels.reading.checks import LabelError, Size
from labels.sample import Question
from prompts import grammar, locations
from prompts.tasks import TASKS, Takes, Task, resolve
from prompts.vocabulary import tokens_of

_TOKEN = re.compile(r"\s*(<[A-Za-z][A-Za-z0-9_.-]*>)(.*)", re.DOTALL)


def question(prompt: str, answer: str, size: Size) -> Question:
    """`prompt`: a task's token and what it takes (`<OD>`, `<VQA>how many?`), or its words as the model reads them;
    `answer`: as the model should say it. Raises ValueError, with the reason."""
    found = asked(prompt, size)
    if found is None:
        raise LabelError(
            f"its prompt {prompt[:60]!r} begins with no task's token, such as <OD>, and is no task's words"
        )
    read = grammar.read(found.task, tokens_of(answer), size)
    if read.dropped:
        raise LabelError(f"its answer cannot be read: {read.dropped[0].what}: {read.dropped[0].reason}")
    return replace(found, answer=tuple(note.model_copy(update={"score": None}) for note in read.annotations))


def asked(prompt: str, size: Size) -> Question | None:
    """What a prompt asks, without an answer; None where it is no task's. Raises ValueError where the task does not
    take what it is given."""
    task, rest = _parted(prompt)
    if task is None:
        return None
    if task.takes is Takes.REGION:
        places = [int(match[1]) for match in locations.LOCATION.finditer(rest)]
        if len(places) != 4 or locations.write(places) != rest.strip():
            raise LabelError(f"{task.token} needs a region, <loc_x1><loc_y1><loc_x2><loc_y2>; it has {rest[:60]!r}")
        x1, y1, x2, y2 = locations.dequantize_points(places, *size)
        found = Question(task, (), region=(x1, y1, x2, y2))
    else:
        text = rest.strip() if task.token in TASKS else rest
        found = Question(task, (), text=text or None)
    task.prompt(found.text, found.region, size)
    return found


def _parted(prompt: str) -> tuple[Task | None, str]:
    """The task, and what stands in its prompt beside the token or the words."""
    if match := _TOKEN.fullmatch(prompt):
        return resolve(match[1]), match[2]
    # The longest wording first: `Locate {input} in the image.` is also a beginning of others.
    for task, pattern in _wordings():
        if match := pattern.fullmatch(prompt.strip()):
            return task, match[1] if task.takes is not Takes.NOTHING else ""
    return None, ""


@cache
def _wordings() -> list[tuple[Task, re.Pattern[str]]]:
    tasks = sorted(TASKS.values(), key=lambda task: (task.takes is Takes.TEXT, -len(task.wording)))
    return [
        (task, re.compile(re.escape(task.wording).replace(re.escape("{input}"), "(.+)"), re.DOTALL)) for task in tasks
    ]
