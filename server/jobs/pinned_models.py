"""The project models that a job uses: the champions at its start, pinned until its end.

Later promotions do not affect the job. Otherwise one dataset could contain labels of two models, and could not be
reproduced or evaluated as the work of one model.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prompts.class_lists import ClassList
from server.engine.request import Request, Result
from server.jobs.recipes.problems import RecipeError, RecipeProblem
from server.jobs.recipes.recipe import PinnedChampion, Recipe

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine
    from server.engine.handle import Handle


class PendingResult(Protocol):
    """The part of `Handle` that a caller uses. An ensemble has several handles behind one."""

    def wait(self, timeout: float | None = None) -> Result: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A loaded project model.

    `sha256` is the hash of its adapter, or of the ensemble with all its members. `submit` submits a request to the
    model, held to a class list; its first argument is the function that submits a request to the engine.
    """

    sha256: str
    submit: "Callable[[Callable[[Request], Handle], Request, ClassList | None], PendingResult]"


class ProjectModels(Protocol):
    """The models of a server's projects, as jobs use them.

    All methods raise StoreError if something does not exist or was trained on other base weights.
    """

    def find_champion(
        self, project: str, task: str, base_sha256: str, model_id: int | None = None
    ) -> PinnedChampion | None:
        """Returns the model with this ID, or else the promoted model of a project and task; None if there is none.

        `base_sha256` is the hash of the base model's weights.
        """

    def find_class_lists(self, recipe: Recipe, project: str, base_sha256: str) -> Mapping[str, Sequence[str]]:
        """Returns the classes of a project if it has declared them, otherwise those of its champions in the recipe, by
        the names that `Recipe.class_lists` has for them."""

    def load_champions(
        self, engine: "Engine", recipe: Recipe, job_id: int
    ) -> AbstractContextManager[Mapping[str, PinnedModel]]:
        """Loads the champions of a job's recipe during the block, by their names in the recipe. Raises AdapterError."""


def pin_champions(recipe: Recipe, previous: Recipe | None, base_sha256: str, projects: ProjectModels | None) -> Recipe:
    """Returns the recipe with a champion for each project and task that it uses.

    Champions that the recipe names come first, then those of `previous`, the recipe of the same job if it exists
    already, then those that are promoted now. Raises RecipeError, and the errors of `projects`.
    """
    champions: dict[str, dict[str, PinnedChampion | None]] = {}
    for project, task in recipe.projects:
        named, before = (each.champions.get(project, {}) if each else {} for each in (recipe, previous))
        pinned = champions.setdefault(project, {})
        if task not in named and task in before:
            pinned[task] = before[task]
            continue
        if projects is None:
            raise _make_error(
                recipe,
                f"a step uses the project {project!r}, but this server has no projects: set FLORIST_PROJECTS_FOLDER, "
                "or remove `project`",
            )
        expected = named.get(task)
        found = projects.find_champion(project, task, base_sha256, expected.model if expected else None)
        if expected and found != expected:
            raise _make_error(
                recipe,
                f"model {expected.model} of {project} has other weights than `champions` says; remove the entry to use "
                "the model that is promoted now",
            )
        is_main_task = any((step.project, step.task) == (project, task) for step in recipe.steps)  # not from `check`
        if found is None and is_main_task and task not in named:
            raise _make_error(
                recipe,
                f"no model of {project} is promoted for {task}: promote one, or remove `project` from the step to use "
                "the base model",
            )
        pinned[task] = expected if task in named else found
    return recipe.model_copy(update={"champions": champions})


def pin_class_lists(
    recipe: Recipe, previous: Recipe | None, engine: "Engine", projects: ProjectModels | None
) -> Recipe:
    """Returns the recipe, whose champions are pinned, with the class list of each adapter and project that it uses.

    Lists that the recipe names come first, then those of `previous`, the recipe of the same job if it exists already,
    then those of now. What `previous` used without a list stays without. Raises the errors of `projects`.
    """
    names = recipe.list_class_list_names()
    known = dict.fromkeys(previous.list_class_list_names(), ()) | previous.class_lists if previous else {}
    found: dict[str, Sequence[str]] = {**known, **recipe.class_lists}
    if missing := [name for name in names if name not in found]:
        lists: dict[str, Sequence[str]] = {adapter.name: adapter.class_list for adapter in engine.list_adapters()}
        for project in dict.fromkeys(project for project, _ in recipe.projects):
            lists |= projects.find_class_lists(recipe, project, engine.checkpoint.sha256) if projects else {}
        found |= {name: lists.get(name, ()) for name in missing}
    return recipe.model_copy(update={"class_lists": {name: list(found[name]) for name in names if found[name]}})


def _make_error(recipe: Recipe, message: str) -> RecipeError:
    return RecipeError(recipe.name, [RecipeProblem(message)])
