"""Models of projects in jobs: a job uses the same models from its start to its end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from prompts.class_lists import ClassList
from server.jobs.pinned_models import PendingResult, PinnedModel
from server.jobs.recipes.recipe import PinnedChampion, Recipe, get_project_key
from server.projects.ensembles import Ensemble, EnsembleBuilder, load_adapters
from server.projects.errors import BaseMismatchError
from server.projects.project_files import ProjectFiles
from server.store.projects.errors import NotFoundError
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import ModelVersion, Project

if TYPE_CHECKING:  # torch
    from server.engine.engine import Engine
    from server.engine.handle import Handle
    from server.engine.request import Request


class PinnedProjectModels:
    """Finds and loads the models that jobs use. Methods raise NotFoundError and BaseMismatchError."""

    def __init__(self, store: ProjectStore, files: ProjectFiles) -> None:
        self._store, self._ensembles = store, EnsembleBuilder(store, files)

    def find_champion(
        self, project: str, task: str, base_sha256: str, model_id: int | None = None
    ) -> PinnedChampion | None:
        """Returns the model with this id, by default the promoted one; None if no model is promoted.

        `base_sha256`: of the weights of the model that is served.
        """
        found = self._find_project(project, base_sha256)
        if model_id is None and (model_id := self._store.promotions.find_champion(found, task)) is None:
            return None
        return PinnedChampion(model=model_id, sha256=self._get_model(found, task, model_id).sha256)

    def find_class_lists(self, recipe: Recipe, project: str, base_sha256: str) -> Mapping[str, Sequence[str]]:
        """Returns the classes of a project if it declares them, otherwise those of its champions in the recipe."""
        found = self._find_project(project, base_sha256)
        if found.classes:
            return {get_project_key(project): found.classes}
        champions = {champion.model: champion for champion in recipe.champions[project].values() if champion}
        return {
            champion.get_name(project): self._ensembles.build(
                found, self._store.models.get_model(found, champion.model)
            ).read_class_list()
            for champion in champions.values()
        }

    @contextmanager
    def load_champions(self, engine: "Engine", recipe: Recipe, job_id: int) -> Iterator[Mapping[str, PinnedModel]]:
        """Loads the champions of a job's recipe, and returns them by their names in the recipe.

        They have their own names in the engine, so that no promotion, rollback or deletion unloads them. Raises
        AdapterError too.
        """
        pinned: dict[str, PinnedModel] = {}
        ensembles: list[Ensemble] = []
        for name, tasks in recipe.champions.items():
            project = self._find_project(name, engine.checkpoint.sha256)
            is_declared = get_project_key(name) in recipe.class_lists
            for task, champion in tasks.items():
                if champion is None:
                    continue
                model = self._get_model(project, task, champion.model)
                if model.sha256 != champion.sha256:
                    raise NotFoundError(
                        f"model {model.id} of {name} has changed since the job started; start a new job"
                    )
                ensemble = self._ensembles.build(project, model).with_suffix(f"job-{job_id}")
                ensembles.append(ensemble)
                submit = _make_submit(engine, ensemble, is_declared=is_declared)
                pinned[champion.get_name(name)] = PinnedModel(champion.sha256, submit)
        with load_adapters(engine, ensembles):
            yield pinned

    def _find_project(self, name: str, base_sha256: str) -> Project:
        projects = self._store.list_projects()
        if (project := next((each for each in projects if each.name == name), None)) is None:
            names = ", ".join(sorted(each.name for each in projects)) or "none"
            raise NotFoundError(f"there is no project {name!r}; there are: {names}")
        if project.base_sha256 != base_sha256:
            raise BaseMismatchError(name, project.base_sha256, base_sha256)
        return project

    def _get_model(self, project: Project, task: str, model_id: int) -> ModelVersion:
        model = self._store.models.get_model(project, model_id)
        if model.task != task:
            raise NotFoundError(f"model {model_id} of {project.name} answers {model.task}, not {task}")
        return model


def _make_submit(
    engine: "Engine", ensemble: Ensemble, *, is_declared: bool
) -> "Callable[[Callable[[Request], Handle], Request, ClassList | None], PendingResult]":
    """Returns how requests are submitted to a model. `is_declared`: whether the project declares its class list. If
    not, a list is open if a member has none."""

    def submit(
        submit_one: "Callable[[Request], Handle]", request: "Request", class_list: ClassList | None
    ) -> "PendingResult":
        if class_list is None:
            return ensemble.submit(submit_one, request)
        known = ensemble.list_known_classes(engine)
        is_open = class_list.is_open or not (is_declared or all(known.values()))
        return ensemble.submit_held(submit_one, request, replace(class_list, is_open=is_open), known)

    return submit
