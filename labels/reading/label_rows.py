"""Reads annotations and samples from JSON objects, as florist's own files have them."""

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from labels.label_kind import LabelKind
from labels.reading import checks, prompt_samples
from labels.reading.checks import LabelError, Size
from labels.reading.image_draft import ImageDraft
from labels.sample import CAPTION_TASKS, Sample
from prompts.annotations import Annotation, Text
from prompts.formatting import format_answer
from prompts.tasks import find_task

_ANNOTATION: TypeAdapter[Annotation] = TypeAdapter(Annotation)


def add_label(label: dict[str, Any], draft: ImageDraft, where: str) -> None:
    """Adds one annotation with its attributes. A text about a region, or a recognized text, becomes a sample."""
    value = label.get("annotation")
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind != "text":
        label_kind = LabelKind.WORDS if kind == "quad" else LabelKind.OBJECTS
        draft.describe(where, draft.add(label_kind, where, read_annotation, value, draft.size), get_attributes(label))
        return
    try:
        annotation = read_annotation(value, draft.size)
        sample = read_prompt(label, draft.size)
        if sample is None or sample.task.token in CAPTION_TASKS:
            draft.describe(where, draft.add(LabelKind.CAPTIONS, where, lambda: annotation), get_attributes(label))
        else:
            format_answer(sample.task, [annotation], draft.size)  # raises ValueError if it is no answer to the task
            draft.add_sample(where, replace(sample, answer=(annotation,)))
    except ValueError as error:
        draft.refuse_label(LabelKind.CAPTIONS, where, str(error))


def add_region(label: dict[str, Any], draft: ImageDraft, where: str) -> None:
    """Adds one region with free text."""
    try:
        shape = parse_annotation(label.get("annotation"))
        text = shape.label
        # Any label will do: the text of a region may be longer than a class.
        placed = checks.check_annotation(shape.model_copy(update={"label": "region"}), draft.size)
    except LabelError as error:
        draft.builder.refuse(where, str(error))
        return
    draft.add_region(where, text, placed, get_attributes(label))


def add_sample(value: Any, draft: ImageDraft, where: str) -> None:
    """Adds one prompt with its answer."""
    try:
        draft.add_sample(where, read_sample(value, draft.size))
    except ValueError as error:  # of checks and tasks
        draft.builder.refuse(where, str(error))


def get_attributes(label: dict[str, Any]) -> dict[str, Any]:
    """Returns the attributes of a label, unchecked."""
    attributes = label.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def read_prompt(label: dict[str, Any], size: Size) -> Sample | None:
    """Returns the prompt that a label answers, as a sample without an answer; None if it belongs to no task."""
    prompt = label.get("prompt") or ""
    if not isinstance(prompt, str):
        raise LabelError("its prompt is not text")
    return prompt_samples.parse_prompt(prompt, size)


def read_sample(value: Any, size: Size) -> Sample:
    """Returns the sample in a JSON value. Raises ValueError with the reason if it is not a sample."""
    if not isinstance(value, dict) or not isinstance(value.get("answer"), list):
        raise LabelError("it has no answer")
    task, text, region = find_task(str(value.get("task"))), value.get("text"), value.get("region")
    if text is not None and not isinstance(text, str):
        raise LabelError("its text is not text")
    corners = None
    if region is not None:
        x1, y1, x2, y2 = checks.check_numbers(region, 4)
        corners = (x1, y1, x2, y2)
    task.build_prompt(text, corners, size)  # raises ValueError if the task does not take them
    answer = tuple(_check_answer(parse_annotation(annotation), size) for annotation in value["answer"])
    format_answer(task, answer, size)  # raises ValueError if it is no answer to the task
    return Sample(task, answer, text, corners)


def read_annotation(value: Any, size: Size) -> Annotation:
    """Returns the annotation in a JSON value, without its score. Raises LabelError."""
    return checks.check_annotation(parse_annotation(value), size)


def _check_answer(annotation: Annotation, size: Size) -> Annotation:
    """Returns a valid part of a sample's answer: shapes may have no label, and texts keep their lines."""
    checked = checks.check_annotation(annotation.model_copy(update={"label": annotation.label or "object"}), size)
    return annotation if isinstance(annotation, Text) else checked.model_copy(update={"label": annotation.label})


def parse_annotation(value: Any) -> Annotation:
    """Returns the annotation in a JSON value as it is, with its score. Raises LabelError."""
    try:
        return _ANNOTATION.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise LabelError(f"its {'.'.join(map(str, first['loc'])) or 'annotation'}: {first['msg']}") from None
