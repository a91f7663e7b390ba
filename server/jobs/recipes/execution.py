"""The execution of a recipe on one image."""

from collections.abc import Generator, Mapping, Sequence
from itertools import islice

from labels.dropped_labels import DroppedLabel, count_dropped
from labels.labeled_image import TracedAnnotation
from server.engine.errors import InvalidRequestError
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt, RecipeExecution, RecipeLabels
from server.jobs.recipes.answers import AnswerReader
from server.jobs.recipes.filters import filter_findings
from server.jobs.recipes.findings import Finding, split_dropped
from server.jobs.recipes.recipe import ONTOLOGY, Recipe, RecipeStep
from server.jobs.recipes.review import describe_low_score, get_review_threshold
from server.jobs.recipes.step_prompts import build_check_prompts, build_prompts
from server.jobs.recipes.tiles import merge_findings

MAX_PROMPTS = 50_000  # about one image
_SAME_OBJECT_IOU = 0.5  # from which two boxes of different phrases with one label are the same object

_StepExecution = Generator[Sequence[ModelPrompt], Sequence[Result], tuple[list[Finding], list[Finding]]]
"""Returns the findings of a step that are kept, and those that are dropped."""


def execute_recipe(recipe: Recipe, size: tuple[int, int]) -> RecipeExecution:
    """Executes the recipe on an image of `size` (width, height) in pixels.

    Yields, in each round, all prompts that can be answered at once, and never an empty list. Returns the annotations in
    the order of the steps, then of the prompts, then of each answer, and the labels that were dropped. The `model` of
    annotations is empty and their `adapter` is the recipe's name for it, since only the runner knows the hashes. Raises
    InvalidRequestError for an image about which it would send more than MAX_PROMPTS prompts.
    """
    findings: dict[str, list[Finding]] = {}
    dropped: list[DroppedLabel] = []
    running: dict[str, tuple[_StepExecution, Sequence[ModelPrompt]]] = {}
    sent = 0

    def advance(id: str, execution: _StepExecution, answers: Sequence[Result] | None) -> None:
        """Runs a step until its next prompts, or until its end. `answers` is None at its start."""
        try:
            running[id] = execution, next(execution) if answers is None else execution.send(answers)
        except StopIteration as end:
            running.pop(id, None)
            findings[id], not_kept = end.value
            dropped.extend(DroppedLabel(id, each.words, each.dropped) for each in not_kept if each.dropped)

    while len(findings) < len(recipe.steps):
        for step in recipe.steps:
            is_new = step.id not in findings and step.id not in running
            if is_new and all(dependency in findings for dependency in step.dependencies):
                advance(step.id, _execute_step(recipe, step, size, findings), None)
        if running:
            prompts = [prompt for _, own in running.values() for prompt in own]
            sent += len(prompts)
            _check_count(sent)
            answers = iter((yield prompts))
            for id, (execution, own) in list(running.items()):
                advance(id, execution, [next(answers) for _ in own])
    return RecipeLabels(_collect_annotations(recipe, findings), count_dropped(dropped))


def _check_count(prompts: int) -> None:
    """Raises InvalidRequestError for too many prompts about one image."""
    if prompts > MAX_PROMPTS:
        raise InvalidRequestError(
            f"the recipe would send more than {MAX_PROMPTS:,} prompts about this image; use larger tiles, fewer "
            "phrases in the ontology, or fewer steps",
            "recipe",
        )


def _execute_step(
    recipe: Recipe, step: RecipeStep, size: tuple[int, int], previous: Mapping[str, Sequence[Finding]]
) -> _StepExecution:
    """Executes one step after its dependencies, whose findings are in `previous`."""
    reader = AnswerReader(recipe, step, size)
    prompts = list(islice(build_prompts(recipe, step, size, previous), MAX_PROMPTS + 1))
    if not prompts:
        return [], []
    _check_count(len(prompts))
    mirrored = [prompt.mirror() for prompt in prompts] if step.flip is not None else []
    results = yield [prompt.model_prompt for prompt in (*prompts, *mirrored)]
    answers = [
        reader.read_answer(prompt, result) for prompt, result in zip([*prompts, *mirrored], results, strict=True)
    ]
    if step.flip is not None:
        halves = zip(answers[: len(prompts)], answers[len(prompts) :], strict=True)
        answers = [reader.check_mirrored(original, mirror, step.flip) for original, mirror in halves]
    findings, dropped = split_dropped(finding for answer in answers for finding in answer)
    if step.tile is not None or step.reference == ONTOLOGY:
        min_iou = step.tile.merge_iou if step.tile else _SAME_OBJECT_IOU
        findings, dropped = merge_findings(findings, min_iou), merge_findings(dropped, min_iou)
    findings = filter_findings(findings, step.filter, size)
    if dropped:  # what the filter would remove anyway is no loss
        dropped = filter_findings(dropped, step.filter.model_copy(update={"max_count": None}), size)
    if step.check and findings:
        checks = build_check_prompts(recipe, step, findings, size)
        replies = iter((yield valid) if (valid := [check for check in checks if check]) else ())
        checked = reader.check_labels(findings, [next(replies) if check else None for check in checks])
        findings, contradicted = split_dropped(checked)
        dropped += contradicted
    return _review_low_scores(findings, get_review_threshold(recipe, step)), dropped


def _review_low_scores(findings: Sequence[Finding], threshold: float) -> list[Finding]:
    reasons = [describe_low_score(finding.annotation.score, threshold) for finding in findings]
    return [
        finding.with_review_reason(reason) if reason else finding
        for finding, reason in zip(findings, reasons, strict=True)
    ]


def _collect_annotations(recipe: Recipe, findings: Mapping[str, Sequence[Finding]]) -> list[TracedAnnotation]:
    traces: list[TracedAnnotation] = []
    positions: dict[Finding, int] = {}
    for step in recipe.steps:
        for finding in findings[step.id] if step.keep else ():
            positions[finding] = len(traces)
            parent = finding.parent
            while parent is not None and parent not in positions:  # from a step that is not kept
                parent = parent.parent
            traces.append(
                TracedAnnotation(
                    finding.annotation,
                    step.id,
                    finding.prompt,
                    finding.raw,
                    adapter=recipe.get_adapter(step, step.task),
                    review="; ".join(finding.review_reasons),
                    parent=None if parent is None else positions[parent],
                )
            )
    return traces
