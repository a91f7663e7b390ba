"""Checks of a recipe beyond its types: steps that cannot run, or would have no effect."""

import difflib
from collections import deque
from collections.abc import Iterator

from prompts.class_texts import split_classes
from prompts.tasks import TASKS, UNLABELED_TASK, AnswerKind, InputKind, PromptError, check_text, find_task
from prompts.text import truncate
from server.jobs.recipes.ontology import normalize_words
from server.jobs.recipes.recipe import CATEGORY, ONTOLOGY, Recipe, RecipeStep

KeyPath = tuple[str | int, ...]
"""Keys and indexes from the top of a recipe to a value."""
PathProblem = tuple[KeyPath, str]

INHERITS_LABELS = "<REGION_TO_SEGMENTATION>"  # its polygons have the labels of their regions


def find_problems(recipe: Recipe) -> Iterator[PathProblem]:
    """Yields all problems, each with where it is and a message that says what to do, in the order of the recipe."""
    yield from _check_ontology(recipe)
    yield from _check_champions(recipe)
    seen: set[str] = set()
    valid: set[str] = set()  # steps without problems up to here, whose dependencies are valid too
    for index, step in enumerate(recipe.steps):
        problems = list(_check_references(recipe, index, seen))
        is_valid = not problems and valid.issuperset(step.dependencies)
        if is_valid:
            valid.add(step.id)
        problems += [*_check_inputs(step), *(_check_sources(recipe, step) if is_valid else ())]
        yield from ((("steps", index, *key), message) for key, message in problems)
        seen.add(step.id)
    used = {dependency for step in recipe.steps for dependency in step.dependencies}
    for index, step in enumerate(recipe.steps):
        if not step.keep and step.id not in used:
            message = f"{step.id} has no effect: it is not kept, and no step uses it; keep it or use it"
            yield ("steps", index, "keep"), message


def find_reference_problems(recipe: Recipe) -> Iterator[PathProblem]:
    """Yields the problems of IDs, and of the references to other steps, in the order of the recipe."""
    seen: set[str] = set()
    for index, step in enumerate(recipe.steps):
        yield from ((("steps", index, *key), message) for key, message in _check_references(recipe, index, seen))
        seen.add(step.id)


def uses_ontology(step: RecipeStep) -> bool:
    """Returns whether the ontology determines the labels of a step's annotations.

    It applies to the names of objects, but not to recognized text, descriptions of regions, and polygons of regions,
    which have the labels of their regions.
    """
    if step.task == CATEGORY:
        return True
    is_text = step.task_definition.answer_kind is AnswerKind.QUADS
    return step.finds_shapes and not is_text and step.task not in (UNLABELED_TASK, INHERITS_LABELS)


def _check_champions(recipe: Recipe) -> Iterator[PathProblem]:
    for index, step in enumerate(recipe.steps):
        if step.adapter and step.project:
            yield ("steps", index, "project"), "use either `adapter` or `project`, not both"
    projects = set(recipe.projects)
    for project, tasks in recipe.champions.items():
        for task in tasks:
            if (project, task) not in projects:
                yield ("champions", project, task), f"no step uses the project {project} for {task}; remove this"
    names = recipe.list_class_list_names()
    for name in recipe.class_lists:
        if name not in names:
            yield ("class_lists", name), f"no step uses {name}; remove this"
    if recipe.any_class and not recipe.answers_classes:
        yield ("any_class",), "no step's answers are held to classes anyway; remove `any_class`"


def _check_ontology(recipe: Recipe) -> Iterator[PathProblem]:
    if not recipe.ontology and "unmatched" in recipe.model_fields_set:
        yield ("unmatched",), "`unmatched` needs an ontology; add `ontology` or remove this"
    owners: dict[str, str] = {}
    for label, phrases in recipe.ontology.items():
        if not label.strip():
            yield (ONTOLOGY, label), "a label is empty; give it a name"
        for index, phrase in enumerate(phrases):
            key = normalize_words(phrase)
            if not key:
                yield (ONTOLOGY, label, index), f"a phrase of {label} has no word in it; write the model's words"
            elif (owner := owners.setdefault(key, label)) != label:
                message = f"{phrase!r} is already a phrase of {owner}, so it never matches {label}; remove one of them"
                yield (ONTOLOGY, label, index), message
            else:
                try:
                    check_text(phrase)
                except PromptError as error:
                    yield (ONTOLOGY, label, index), str(error)
    yield from _check_reachability(recipe)


def _check_reachability(recipe: Recipe) -> Iterator[PathProblem]:
    """Yields the labels that no annotation can get. Takes one search of all texts for each phrase."""
    steps = [step for step in recipe.steps if uses_ontology(step)]
    if any(step.text is None or step.reference is not None for step in steps):
        return
    texts = "\n".join(f" {normalize_words(step.text or '')} " for step in steps)
    for label, phrases in recipe.ontology.items():
        if any((words := normalize_words(phrase)) and f" {words} " in texts for phrase in phrases):
            continue
        if not steps:
            yield (ONTOLOGY, label), f"no annotation can get the label {label}: no step names objects; add one, as <OD>"
        else:
            known = truncate(", ".join(dict.fromkeys(repr(step.text) for step in steps)), 200)
            message = (
                f"no annotation can get the label {label}: the steps look only for {known}; use `text: ${{{ONTOLOGY}}}`"
            )
            yield (ONTOLOGY, label), message


def _check_references(recipe: Recipe, index: int, seen: set[str]) -> Iterator[PathProblem]:
    """Yields the problems of a step's ID and of its references. `seen`: the IDs of the earlier steps."""
    step = recipe.steps[index]
    for key, message in (
        *_check_id(step, seen),
        *_check_dependency(recipe, index, seen, "for_each", step.for_each),
        *_check_text(recipe, index, seen),
    ):
        yield (key,), message


def _check_id(step: RecipeStep, seen: set[str]) -> Iterator[tuple[str, str]]:
    if step.id == ONTOLOGY:
        yield "id", f"the ID {ONTOLOGY} is reserved for ${{{ONTOLOGY}}}; use another ID"
    elif step.id and step.id in seen:
        yield "id", f"two steps have the ID {step.id}; rename one, and the references to it"


def _check_dependency(recipe: Recipe, index: int, seen: set[str], key: str, name: str | None) -> list[tuple[str, str]]:
    """Returns the problems of a step's reference to another step."""
    if name is None or name in seen:
        return []
    step = recipe.steps[index]
    if name == step.id:
        return [(key, f"{step.id} refers to itself; use an earlier step")]
    if all(other.id != name for other in recipe.steps):
        similar = difflib.get_close_matches(name, seen, n=1)
        earlier = f"the earlier steps are {', '.join(sorted(seen))}" if seen else "there is no earlier step"
        return [(key, f"there is no step {name!r}: " + (f"did you mean {similar[0]}?" if similar else earlier))]
    if (cycle := _find_cycle(recipe, name, step.id)) is not None:
        chain = " needs ".join((step.id, *cycle))
        return [(key, f"the steps form a cycle: {chain}; remove one of these references")]
    return [(key, f"{step.id} refers to {name}, which comes later; move {name} before it")]


def _find_cycle(recipe: Recipe, start: str, goal: str) -> list[str] | None:
    """Returns the chain of steps by which `start` depends on `goal`, with both ends; None if it does not."""
    steps = {step.id: step for step in recipe.steps}
    waiting, found_from = deque([start]), {start: ""}
    while waiting:
        current = waiting.popleft()
        for name in steps[current].dependencies:
            if name == goal:
                chain = [goal, current]
                while chain[-1] != start:
                    chain.append(found_from[chain[-1]])
                return chain[::-1]
            if name in steps and name not in found_from:
                found_from[name] = current
                waiting.append(name)
    return None


def _check_text(recipe: Recipe, index: int, seen: set[str]) -> list[tuple[str, str]]:
    """Returns the problems of the reference in a step's text."""
    step = recipe.steps[index]
    if step.reference is None:
        if step.text and "${" in step.text:
            return [("text", "a reference must be the whole text, as in `text: ${caption}`; remove the other words")]
        return []
    if step.reference == ONTOLOGY:
        return [] if recipe.ontology else [("text", f"${{{ONTOLOGY}}} needs an ontology; add `{ONTOLOGY}`")]
    return _check_dependency(recipe, index, seen, "text", step.reference)


def _check_inputs(step: RecipeStep) -> Iterator[PathProblem]:
    """Yields the problems of a step that do not depend on other steps."""
    task = step.task_definition
    if task.input_kind is InputKind.REGION and not step.for_each:
        yield ("task",), f"{task.token} needs a region; add `for_each:` with the step that finds the regions"
    if task.input_kind is not InputKind.TEXT and step.text is not None:
        yield ("text",), f"{task.token} takes no text; remove it"
    if task.input_kind is InputKind.TEXT and task.token in TASKS and not (step.text or "").strip():
        yield ("task",), f"{task.token} needs `text`: what to look for, ${{step}} or ${{{ONTOLOGY}}}"
    if step.reference is None and step.text:
        try:
            check_text(step.text)
            split_classes(task, step.text)
        except PromptError as error:
            yield ("text",), str(error)
    if step.any_class and not any(find_task(token).answers_classes for token in step.tasks):
        yield ("any_class",), f"answers to {step.task} are not held to classes anyway; remove `any_class`"
    yield from _check_views(step)
    yield from _check_filter(step)


def _check_sources(recipe: Recipe, step: RecipeStep) -> Iterator[PathProblem]:
    """Yields the problems between a step and those that it refers to, which must exist and come earlier."""
    source = recipe.get_step(step.for_each) if step.for_each else None
    if source and not source.finds_shapes:
        yield ("for_each",), f"{source.id} ({source.task}) finds no regions, only text; use a step that finds boxes"
    if step.reference not in (None, ONTOLOGY) and not _has_words(recipe, recipe.get_step(step.reference or "")):
        yield ("text",), f"{step.reference} finds regions without words; use a step with labels or text"
    is_text = step.task_definition.answer_kind is AnswerKind.QUADS
    if step.check and not (step.finds_shapes and not is_text and _has_words(recipe, step)):
        yield ("check",), f"`check` verifies the label of each region, but {step.task} returns no labeled regions"


def _check_views(step: RecipeStep) -> Iterator[PathProblem]:
    """Yields problems of `tile` and `flip`, which need prompts about the whole image, with shapes as answers."""
    for key, is_set, effect in (
        ("tile", step.tile is not None, "splits the image into tiles"),
        ("flip", step.flip is not None, "compares positions in the mirrored image"),
    ):
        if is_set and not step.finds_shapes:
            yield (key,), f"`{key}` {effect}, but {step.task} returns text without a position; remove it"
        elif is_set and step.for_each:
            yield (key,), f"`{key}` needs prompts about the whole image; remove it, or remove `for_each`"
    if step.flip is not None and step.task_definition.answer_kind is AnswerKind.QUADS:
        yield ("flip",), "text cannot be read in a mirrored image; remove `flip`"


def _check_filter(step: RecipeStep) -> Iterator[PathProblem]:
    for key in step.filter.model_fields_set - {"min_score", "max_count"}:
        if not step.finds_shapes and getattr(step.filter, key) is not None:
            yield ("filter", key), f"{step.task} returns text, to which {key} does not apply; remove it"
    for low, high in (("min_side", "max_side"), ("min_area", "max_area")):
        least, most = getattr(step.filter, low), getattr(step.filter, high)
        if least is not None and most is not None and least > most:
            yield ("filter", low), f"{low} {least} is greater than {high} {most}; swap them"


def _has_words(recipe: Recipe, step: RecipeStep) -> bool:
    """Returns whether a step's annotations have words."""
    if step.task == INHERITS_LABELS:
        return bool(step.for_each) and _has_words(recipe, recipe.get_step(step.for_each or ""))
    return step.task != UNLABELED_TASK
