"""Projects' models at work in a job: the same from its beginning to its end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from server.engine.engine import Engine
from server.jobs.pinned_models import Seat
from server.jobs.recipes.recipe import Champion, Recipe
from server.projects.ensembles import Ensemble, EnsembleBuilder, loaded
from server.store.projects.records import BaseMismatchError, ModelVersion, NotFoundError, Project
from server.store.projects.registry import Registry


class PinnedProjectModels:
    """Of a registry's projects. Methods raise what the registry does, Missing and OtherBase. `folder`: where the
    projects' folders are."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry, self._panels = registry, EnsembleBuilder(registry, folder)

    def champion(self, project: str, task: str, base: str, model: int | None = None) -> Champion | None:
        """Who answers a task for a project: the model of that number, else the one that is promoted; None: nobody is.
        `base`: the SHA-256 of the weights that are served."""
        found = self._project(project, base)
        if (number := model or self._registry.champion(found, task)) is None:
            return None
        return Champion(model=number, sha256=self._model(found, task, number).sha256)

    @contextmanager
    def seated(self, engine: Engine, recipe: Recipe, job: int) -> Iterator[Mapping[str, Seat]]:
        """The champions of a job's recipe by their names in it. They are loaded by names of their own, beside those
        that answer prompts: no promotion, rollback or deletion takes them away. Raises AdapterError too."""
        seats: dict[str, Seat] = {}
        panels: list[Ensemble] = []
        for name, tasks in recipe.champions.items():
            project = self._project(name, engine.checkpoint.sha256)
            for task, champion in tasks.items():
                if champion is None:
                    continue
                model = self._model(project, task, champion.model)
                if model.sha256 != champion.sha256:
                    raise NotFoundError(
                        f"model {model.id} of {name} is another than when the job began; begin another job"
                    )
                panel = self._panels.of(project, model).renamed(f"job-{job}")
                panels.append(panel)
                seats[champion.name(name)] = Seat(champion.sha256, panel.ask)
        with loaded(engine, panels):
            yield seats

    def _project(self, name: str, base: str) -> Project:
        projects = self._registry.projects.projects()
        if (project := next((each for each in projects if each.name == name), None)) is None:
            there = ", ".join(sorted(each.name for each in projects)) or "none"
            raise NotFoundError(f"there is no project {name!r}; there are: {there}")
        if project.base != base:
            raise BaseMismatchError(name, project.base, base)
        return project

    def _model(self, project: Project, task: str, number: int) -> ModelVersion:
        model = self._registry.model(project, number)
        if model.task != task:
            raise NotFoundError(f"model {number} of {project.name} answers {model.task}, not {task}")
        return model
