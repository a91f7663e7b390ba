"""What is wrong with a recipe beyond its types: steps that cannot be asked, or would be asked for nothing."""

import difflib
from collections.abc import Iterator

from prompts.tasks import TASKS, AnswerKind, InputKind, PromptError, check_text
from server.jobs.recipes.ontology import normal, says
from server.jobs.recipes.recipe import CATEGORY, ONTOLOGY, Recipe, RecipeStep

Path = tuple[str | int, ...]
RecipeProblem = tuple[Path, str]
"""Where, as keys and indexes from the top, and what to do about it."""

_UNNAMED = "<REGION_PROPOSAL>"  # boxes of whatever is there: they have no labels
_INHERITS = "<REGION_TO_SEGMENTATION>"  # polygons called what their region was called


def problems(recipe: Recipe) -> Iterator[RecipeProblem]:
    """All of them, in the order of the recipe."""
    yield from _ontology(recipe)
    yield from _champions(recipe)
    seen: set[str] = set()
    sound: set[str] = set()  # steps whose sources are found, and so on up: whether they fit can be told
    for index, step in enumerate(recipe.steps):
        at: Path = ("steps", index)
        named = list(_named(step, seen))
        named += [*_source(recipe, index, seen, "each", step.each), *_text(recipe, index, seen)]
        yield from (((*at, key), message) for key, message in named)
        if not named and sound.issuperset(step.sources):
            sound.add(step.id)
            yield from (((*at, *key), message) for key, message in _fits(recipe, step))
        seen.add(step.id)
    for index, step in enumerate(recipe.steps):
        if not step.keep and not any(step.id in other.sources for other in recipe.steps):
            message = f"{step.id} is not kept, and no step uses it: it would be asked for nothing; keep it or use it"
            yield ("steps", index, "keep"), message


def _champions(recipe: Recipe) -> Iterator[RecipeProblem]:
    for index, step in enumerate(recipe.steps):
        if step.adapter and step.project:
            yield ("steps", index, "project"), "name `adapter` or `project`, not both"
    for project, tasks in recipe.champions.items():
        for task in tasks:
            if (project, task) not in recipe.projects:
                yield ("champions", project, task), f"no step asks the project {project} for {task}; take it out"


def _ontology(recipe: Recipe) -> Iterator[RecipeProblem]:
    if not recipe.ontology and "others" in recipe.model_fields_set:
        yield ("others",), "`others` is about answers that an ontology does not name; add `ontology` or take this out"
    owners: dict[str, str] = {}
    for label, phrases in recipe.ontology.items():
        if not label.strip():
            yield (ONTOLOGY, label), "a label is empty; give it a name"
        for index, phrase in enumerate(phrases):
            key = normal(phrase)
            if not key:
                yield (ONTOLOGY, label, index), f"a phrase of {label} has no word in it; write what the model says"
            elif (owner := owners.setdefault(key, label)) != label:
                message = (
                    f"{phrase!r} is a phrase of {owner} already, so {label} would never get it; take it out of one"
                )
                yield (ONTOLOGY, label, index), message
            else:
                try:
                    check_text(phrase)
                except PromptError as error:
                    yield (ONTOLOGY, label, index), str(error)
    naming = [step for step in recipe.steps if takes_ontology(step)]
    for label, phrases in recipe.ontology.items():
        if any(_reaches(step, phrase) for step in naming for phrase in phrases):
            continue
        if not naming:
            yield (ONTOLOGY, label), f"{label} can never be given: no step names things, such as <OD>; add one"
        else:
            texts = ", ".join(dict.fromkeys(repr(step.text) for step in naming))
            message = f"{label} can never be given: the steps ask for {texts} alone; write `text: ${{{ONTOLOGY}}}`"
            yield (ONTOLOGY, label), message


def takes_ontology(step: RecipeStep) -> bool:
    """Whether what a step answers is called by the ontology: names of things are; words read and descriptions of a
    region are not, and polygons of regions have their regions' labels."""
    if step.task == CATEGORY:
        return True
    return step.shapes and step.asked.answer_kind is not AnswerKind.QUADS and step.task not in (_UNNAMED, _INHERITS)


def _reaches(step: RecipeStep, phrase: str) -> bool:
    return step.text is None or step.reference is not None or says(step.text, phrase)


def _named(step: RecipeStep, seen: set[str]) -> Iterator[tuple[str, str]]:
    if step.id == ONTOLOGY:
        yield "id", f"a step cannot be called {ONTOLOGY}: ${{{ONTOLOGY}}} has that name; call it otherwise"
    elif step.id in seen:
        yield "id", f"two steps are called {step.id}; rename one, and what names it"


def _source(recipe: Recipe, index: int, seen: set[str], key: str, name: str | None) -> list[tuple[str, str]]:
    """What is wrong with a step's naming another one."""
    if name is None or name in seen:
        return []
    step = recipe.steps[index]
    if name == step.id:
        return [(key, f"{step.id} waits for itself; name an earlier step")]
    later = next((other for other in recipe.steps if other.id == name), None)
    if later is None:
        near = difflib.get_close_matches(name, seen, n=1)
        known = f"the steps before it are {', '.join(sorted(seen))}" if seen else "there is none before it"
        return [(key, f"there is no step {name!r}: " + (f"did you mean {near[0]}?" if near else known))]
    if (circle := _circle(recipe, later.id, step.id)) is not None:
        round_ = " waits for ".join((step.id, *circle))
        return [(key, f"a cycle: {round_}; take one of these references out")]
    return [(key, f"{step.id} asks about {name}, which comes later; move {name} before it")]


def _circle(recipe: Recipe, start: str, goal: str) -> list[str] | None:
    """The steps through which `start` waits for `goal`, both ends told; None where it does not."""
    paths, visited = [[start]], {start}
    steps = {step.id: step for step in recipe.steps}
    while paths:
        path = paths.pop(0)
        for name in steps[path[-1]].sources:
            if name == goal:
                return [*path, goal]
            if name in steps and name not in visited:
                visited.add(name)
                paths.append([*path, name])
    return None


def _text(recipe: Recipe, index: int, seen: set[str]) -> list[tuple[str, str]]:
    """What is wrong with a step's reference in its text."""
    step = recipe.steps[index]
    if step.reference is None:
        if step.text and "${" in step.text:
            return [("text", "a reference stands alone, as in `text: ${caption}`; take the words around it out")]
        return []
    if step.reference == ONTOLOGY:
        return [] if recipe.ontology else [("text", f"${{{ONTOLOGY}}} needs an ontology; add `{ONTOLOGY}`")]
    return _source(recipe, index, seen, "text", step.reference)


def _fits(recipe: Recipe, step: RecipeStep) -> Iterator[tuple[Path, str]]:
    """Whether a step's sources give what its task takes; they are there and come earlier."""
    task = step.asked
    source = recipe.step(step.each) if step.each else None
    if source and not source.shapes:
        yield ("each",), f"{source.id} ({source.task}) finds no regions, only text; name a step that gives boxes"
    if task.input_kind is InputKind.REGION and not step.each:
        yield ("task",), f"{task.token} asks about a region; add `each:` with the step whose regions they are"
    if task.input_kind is not InputKind.TEXT and step.text is not None:
        yield ("text",), f"{task.token} takes no text; take it out"
    if task.input_kind is InputKind.TEXT and task.token in TASKS and not (step.text or "").strip():
        yield ("task",), f"{task.token} needs `text`: what to look for, ${{step}} or ${{{ONTOLOGY}}}"
    if step.reference is None and step.text:
        try:
            check_text(step.text)
        except PromptError as error:
            yield ("text",), str(error)
    if step.reference not in (None, ONTOLOGY) and not _worded(recipe, recipe.step(step.reference or "")):
        yield ("text",), f"{step.reference} gives regions without words; name a step that gives labels or text"
    yield from _whole(step)
    yield from _shaped(recipe, step)


def _whole(step: RecipeStep) -> Iterator[tuple[Path, str]]:
    """What looks at the picture another way needs a question about all of it, whose answer can be placed."""
    words = step.asked.answer_kind is AnswerKind.QUADS
    for key, given, wrong in (
        ("tile", step.tile is not None, "cuts the picture into squares"),
        ("flip", step.flip is not None, "compares places in the mirror image"),
    ):
        if given and not step.shapes:
            yield (key,), f"`{key}` {wrong}, and {step.task} gives text without a place; take it out"
        elif given and step.each:
            yield (key,), f"`{key}` is for questions about the whole picture; take it out, or take `each` out"
    if step.flip is not None and words:
        yield ("flip",), "words cannot be read in a mirror; take `flip` out"


def _shaped(recipe: Recipe, step: RecipeStep) -> Iterator[tuple[Path, str]]:
    if step.check and not (step.shapes and step.asked.answer_kind is not AnswerKind.QUADS and _worded(recipe, step)):
        yield ("check",), f"`check` asks each region back for its label, and {step.task} gives no labelled regions"
    for key in step.filter.model_fields_set - {"score", "count"}:
        if not step.shapes and getattr(step.filter, key) is not None:
            yield ("filter", key), f"{step.task} gives text, which has no {key}; take it out"
    for low, high in (("min_side", "max_side"), ("min_area", "max_area")):
        least, most = getattr(step.filter, low), getattr(step.filter, high)
        if least is not None and most is not None and least > most:
            yield ("filter", low), f"nothing is between {low} {least} and {high} {most}; exchange them"


def _worded(recipe: Recipe, step: RecipeStep) -> bool:
    """Whether a step's answers have words."""
    if step.task == _INHERITS:
        return bool(step.each) and _worded(recipe, recipe.step(step.each or ""))
    return step.task != _UNNAMED
