"""A recipe at work on one picture."""

from collections.abc import Generator, Mapping, Sequence

from labels.labeled_image import TracedAnnotation
from server.engine.request import Result
from server.jobs.model_prompts import ModelPrompt, RecipeExecution
from server.jobs.recipes.answers import AnswerReader
from server.jobs.recipes.filters import filtered
from server.jobs.recipes.findings import Finding
from server.jobs.recipes.recipe import ONTOLOGY, Recipe, RecipeStep
from server.jobs.recipes.step_prompts import asked_back, questions
from server.jobs.recipes.tiles import merged

_SYNONYMS = 0.5  # the IoU from which what two phrases of one label found is one thing

_Working = Generator[Sequence[ModelPrompt], Sequence[Result], list[Finding]]


def execute_recipe(recipe: Recipe, size: tuple[int, int]) -> RecipeExecution:
    """Asks about a picture of `size` (width, height) in pixels: at each turn all that can be asked at once, never
    nothing. Labels come in the order of the steps, then of what was asked, then of each answer.

    A label's `model` is empty and its `adapter` is the recipe's own name for it: hashes are the runner's to know.
    """
    found: dict[str, list[Finding]] = {}
    working: dict[str, tuple[_Working, Sequence[ModelPrompt]]] = {}
    while len(found) < len(recipe.steps):
        for step in recipe.steps:
            if step.id not in found and step.id not in working and all(source in found for source in step.sources):
                _advance(step.id, _work(recipe, step, size, found), None, working, found)
        if working:
            answers = iter((yield [ask for _, asks in working.values() for ask in asks]))
            for id, (work, asks) in list(working.items()):
                _advance(id, work, [next(answers) for _ in asks], working, found)
    return _labels(recipe, found)


def _advance(
    id: str,
    work: _Working,
    answers: Sequence[Result] | None,
    working: dict[str, tuple[_Working, Sequence[ModelPrompt]]],
    found: dict[str, list[Finding]],
) -> None:
    """Runs a step's work to its next asks, or to its end. `answers`: None to begin."""
    try:
        working[id] = work, next(work) if answers is None else work.send(answers)
    except StopIteration as end:
        working.pop(id, None)
        found[id] = end.value


def _work(recipe: Recipe, step: RecipeStep, size: tuple[int, int], before: Mapping[str, Sequence[Finding]]) -> _Working:
    """One step, once its sources are there."""
    reader = AnswerReader(recipe, step, size)
    asked = questions(recipe, step, size, before)
    if not asked:
        return []
    mirror = [question.in_mirror() for question in asked] if step.flip is not None else []
    results = yield [question.ask for question in (*asked, *mirror)]
    read = [reader.read(question, result) for question, result in zip([*asked, *mirror], results, strict=True)]
    if step.flip is not None:
        halves = zip(read[: len(asked)], read[len(asked) :], strict=True)
        read = [reader.mirror_agrees(found, reflected, step.flip) for found, reflected in halves]
    found = [finding for answer in read for finding in answer]
    if step.tile is not None or step.reference == ONTOLOGY:
        found = merged(found, step.tile.merge if step.tile else _SYNONYMS)
    found = filtered(found, step.filter, size)
    if step.check and found:
        back = [asked_back(recipe, step, finding, size) for finding in found]
        answers = iter((yield asks) if (asks := [ask for ask in back if ask]) else ())
        found = reader.asked_back_agrees(found, [next(answers) if ask else None for ask in back])
    least = recipe.review_below
    if least is None:
        return found
    return [
        each if each.score >= least else each.doubted(f"score {each.score:.2f} is below {least:g}") for each in found
    ]


def _labels(recipe: Recipe, found: Mapping[str, Sequence[Finding]]) -> list[TracedAnnotation]:
    labels: list[TracedAnnotation] = []
    place: dict[Finding, int] = {}
    for step in recipe.steps:
        for each in found[step.id] if step.keep else ():
            place[each] = len(labels)
            parent = each.parent
            while parent is not None and parent not in place:  # of a step that is not kept
                parent = parent.parent
            labels.append(
                TracedAnnotation(
                    each.annotation,
                    step.id,
                    each.prompt,
                    each.raw,
                    adapter=recipe.answering(step, step.task),
                    review="; ".join(each.doubts),
                    parent=None if parent is None else place[parent],
                )
            )
    return labels
