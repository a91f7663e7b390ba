"""The classes that the answers of a recipe's steps are held to."""

from prompts.class_lists import ClassList
from prompts.tasks import find_task
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.recipe import Recipe, RecipeStep, get_project_key


def find_class_list(recipe: Recipe, step: RecipeStep, task: str) -> ClassList | None:
    """Returns the class list that holds for a step's prompts of a task; None if the model may answer with any class.

    That is the list of the project or adapter that answers, as it was when the job started, with the phrases of the
    ontology. What is outside is dropped, and counted. With an ontology, the list is open unless it is the project's:
    the ontology decides what becomes of other names, by `unmatched`.
    """
    if recipe.any_class or step.any_class or not find_task(task).answers_classes:
        return None
    phrases = [phrase for phrase, _ in recipe.ontology_index.phrases]
    ontology = f"the ontology of {recipe.name}"
    for name, origin in _list_origins(recipe, step, task):
        if names := recipe.class_lists.get(name):
            is_declared = step.project is not None and name == get_project_key(step.project)
            origin += f" and {ontology}" if phrases else ""
            return ClassList(tuple(dict.fromkeys((*names, *phrases))), origin, bool(phrases) and not is_declared)
    return ClassList(tuple(dict.fromkeys(phrases)), ontology, is_open=True) if phrases else None


def allow_any_class(recipe: Recipe) -> Recipe:
    """Returns the recipe with any class allowed. Raises RecipeError if its answers are not held to classes anyway."""
    if not recipe.answers_classes:
        message = f"no step of {recipe.name} names classes, so that any is allowed already"
        raise RecipeError("--any-class", [RecipeProblem(message)])
    return recipe.model_copy(update={"any_class": True})


def describe_class_lists(recipe: Recipe) -> list[str]:
    """Returns sentences about what the answers of a started job are held to, and about what cannot be held."""
    sentences: dict[str, None] = {}
    for step in recipe.steps:
        for task in step.tasks:
            if (found := find_class_list(recipe, step, task)) is None:
                continue
            if found.is_open and not any(recipe.class_lists.get(name) for name, _ in _list_origins(recipe, step, task)):
                continue  # the report says what the ontology drops
            held = f"answers to {task} are held to the {len(found.names):,} classes of {found.origin}"
            sentences[found.warning or held] = None
    return list(sentences)


def _list_origins(recipe: Recipe, step: RecipeStep, task: str) -> list[tuple[str, str]]:
    """Returns the names under which a recipe may have the list of a step, each with its origin for people."""
    adapter = recipe.get_adapter(step, task)
    if step.project is None:
        return [(adapter, f"adapter {adapter}")] if adapter else []
    names = [(get_project_key(step.project), f"project {step.project}")]
    return [*names, (adapter, f"project {step.project}")] if adapter else names
