"""Converts a prompt and its answer, as datasets write them, to a sample."""

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


def parse_sample(prompt: str, answer: str, size: Size) -> Sample:
    """Returns the sample of a prompt and its answer about an image of `size` (width, height).

    `prompt` is a task's token and its input (`<OD>`, `<VQA>how many?`), or the text of the prompt as the encoder gets
    it. `answer` is the text that the model should generate. Raises ValueError with the reason.
    """
    sample = parse_prompt(prompt, size)
    if sample is None:
        raise LabelError(
            f"its prompt {prompt[:60]!r} does not start with a task's token, such as <OD>, and is not a task's text"
        )
    parsed = parse_answer(sample.task, tokenize_answer(answer), size)
    if parsed.dropped:
        raise LabelError(f"its answer cannot be read: {parsed.dropped[0].what}: {parsed.dropped[0].reason}")
    return replace(sample, answer=tuple(each.model_copy(update={"score": None}) for each in parsed.annotations))


def parse_prompt(prompt: str, size: Size) -> Sample | None:
    """Returns the sample of a prompt, without an answer; None if the prompt belongs to no task.

    Raises ValueError if the task does not accept the input.
    """
    task, rest = _split_prompt(prompt)
    if task is None:
        return None
    if task.input_kind is InputKind.REGION:
        bins = [int(match[1]) for match in LOCATION_PATTERN.finditer(rest)]
        if len(bins) != 4 or format_locations(bins) != rest.strip():
            raise LabelError(f"{task.token} needs a region, <loc_x1><loc_y1><loc_x2><loc_y2>; it has {rest[:60]!r}")
        x1, y1, x2, y2 = locations.dequantize_points(bins, *size)
        sample = Sample(task, (), region=(x1, y1, x2, y2))
    else:
        text = rest.strip() if task.token in TASKS else rest
        sample = Sample(task, (), text=text or None)
    task.build_prompt(sample.text, sample.region, size)
    return sample


def _split_prompt(prompt: str) -> tuple[Task | None, str]:
    """Returns the task and its input."""
    if match := _TOKEN.fullmatch(prompt):
        return find_task(match[1]), match[2]
    for task, pattern in _compile_templates():
        if match := pattern.fullmatch(prompt.strip()):
            return task, match[1] if task.input_kind is not InputKind.NOTHING else ""
    return None, ""


@cache
def _compile_templates() -> list[tuple[Task, re.Pattern[str]]]:
    """Returns a pattern for each task, the longest template first, because short ones also match other prompts."""
    tasks = sorted(TASKS.values(), key=lambda task: (task.input_kind is InputKind.TEXT, -len(task.template)))
    return [
        (task, re.compile(re.escape(task.template).replace(re.escape("{input}"), "(.+)"), re.DOTALL)) for task in tasks
    ]
