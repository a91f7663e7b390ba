"""The models that a job asks whose recipe names projects: those that are promoted when it begins, pinned to its end,
whatever is promoted meanwhile. A dataset of two models would be judged as of one, and could not be labelled again
alike."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from server.engine.engine import Engine
from server.engine.handle import Handle
from server.engine.request import Request, Result
from server.jobs.recipes.parsing import Problem, RecipeError
from server.jobs.recipes.recipe import Champion, Recipe


class Waiting(Protocol):
    """What `Handle` is to its caller, be it of several models."""

    def wait(self, timeout: float | None = None) -> Result: ...

    def cancel(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Seat:
    """A project's model, loaded. `sha256`: of all that answers; `ask` submits a request to it, by what submits one to
    the engine."""

    sha256: str
    ask: Callable[[Callable[[Request], Handle], Request], Waiting]


class ProjectModels(Protocol):
    """The models of a server's projects, as jobs see them. Both methods raise StoreError for what is not there or
    stands on other weights."""

    def champion(self, project: str, task: str, base: str, model: int | None = None) -> Champion | None:
        """Who answers a task for a project: the model of that number, else the one that is promoted; None: nobody is.
        `base`: the SHA-256 of the weights that are served."""

    def seated(self, engine: Engine, recipe: Recipe, job: int) -> AbstractContextManager[Mapping[str, Seat]]:
        """The champions of a job's recipe by their names in it, loaded meanwhile. Raises AdapterError too."""


def pinned(recipe: Recipe, began: Recipe | None, base: str, projects: ProjectModels | None) -> Recipe:
    """The recipe with all its champions: those that it names itself, else those of `began`, the same job's where it is
    there already, else those that are promoted now. Raises RecipeError, and what `projects` does."""
    champions: dict[str, dict[str, Champion | None]] = {}
    for project, task in recipe.projects:
        named, before = (each.champions.get(project, {}) if each else {} for each in (recipe, began))
        chosen = champions.setdefault(project, {})
        if task not in named and task in before:
            chosen[task] = before[task]
            continue
        if projects is None:
            raise _refused(
                recipe,
                f"a step asks the project {project!r}, and there are no projects here: set FLORIST_PROJECTS_FOLDER, or "
                "take `project` out of it",
            )
        given = named.get(task)
        found = projects.champion(project, task, base, given.model if given else None)
        if given and found != given:
            raise _refused(
                recipe,
                f"model {given.model} of {project} has other weights than `champions` says; take it out, and who is "
                "promoted now answers",
            )
        main = any((step.project, step.task) == (project, task) for step in recipe.steps)  # not for `check` alone
        if found is None and main and task not in named:
            raise _refused(
                recipe,
                f"no model of {project} is promoted for {task}: promote one, or take `project` out of the step, and "
                "the model alone answers",
            )
        chosen[task] = given if task in named else found
    return recipe.model_copy(update={"champions": champions})


def _refused(recipe: Recipe, why: str) -> RecipeError:
    return RecipeError(recipe.name, [Problem(why)])
