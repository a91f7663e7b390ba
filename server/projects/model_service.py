"""Builds, tests, promotes and rolls back the models of projects."""

import secrets

from server.projects.backtester import Backtester
from server.projects.champion_registry import ChampionRegistry
from server.projects.deleted_projects import remove_if_deleted
from server.projects.ensemble_models import check_models, hash_ensemble, write_adapter_sum
from server.projects.ensembles import Ensemble, EnsembleBuilder
from server.projects.project_files import ProjectFiles
from server.store.projects.ensembles import AdapterSum, EnsembleDefinition
from server.store.projects.project_store import ProjectStore
from server.store.projects.records import Backtest, ModelVersion, Project, Promotion


class ModelService:
    """The models of all projects. Raises what ProjectStore raises."""

    def __init__(
        self, store: ProjectStore, files: ProjectFiles, champions: ChampionRegistry, backtester: Backtester
    ) -> None:
        self._store, self._files = store, files
        self._champions, self._backtester = champions, backtester
        self._ensembles = EnsembleBuilder(store, files)

    def create_ensemble(self, project: Project, definition: EnsembleDefinition) -> ModelVersion:
        """Builds a model from other models and stores it.

        Raises NotFoundError, InvalidEnsembleError, and OSError if its adapter cannot be written.
        """
        model_ids = [model_id for model_id in definition.models if model_id is not None]
        models = [self._store.models.get_model(project, model_id) for model_id in model_ids]
        task = check_models(definition, models)
        if not isinstance(definition, AdapterSum):
            sha256 = hash_ensemble(definition, models)
            return self._store.models.add_ensemble(project, task, definition, sha256, folder="")
        folder = f"models/{secrets.token_hex(8)}"
        adapters = {model.id: self._files.get_adapter_folder(project, model) for model in models}
        with remove_if_deleted(self._store, self._files, project):
            sha256 = write_adapter_sum(definition, adapters, self._files.get_project_folder(project) / folder)
            return self._store.models.add_ensemble(project, task, definition, sha256, folder)

    def get_backtest_progress(self, backtest: Backtest) -> tuple[int, int] | None:
        """Returns how many images of a running backtest have been answered, of how many. See Backtester."""
        return self._backtester.get_progress(backtest)

    def start_backtest(
        self, project: Project, model: ModelVersion, author: str, forgetting_images: int = 0
    ) -> Backtest:
        """Queues a backtest of a model against the current champion. Raises BaseMismatchError.

        `forgetting_images`: maximum number of scenes or images on which forgetting is measured; 0: it is not.
        """
        self._champions.check_base(project)
        champion_id = self._store.promotions.find_champion(project, model.task)
        backtest = self._store.backtests.add_backtest(project, model, champion_id, forgetting_images, author)
        self._backtester.wake()
        return backtest

    def promote(
        self, project: Project, model: ModelVersion, author: str, *, forced: bool = False, reason: str = ""
    ) -> Promotion:
        """Makes a model the champion of its task.

        Raises PromotionNotEarnedError, BaseMismatchError, InvalidStateError if it is the champion already, and
        AdapterError if its adapter cannot be loaded.
        """
        self._champions.check_base(project)
        with self._champions.hold_changes():
            ensemble = self._ensembles.build(project, model)
            with self._champions.load_adapters(ensemble):
                promotion = self._store.promotions.promote(project, model, author, forced=forced, reason=reason)
            self._champions.set_champion(project, model.task, ensemble)
        return promotion

    def roll_back(self, project: Project, task: str, author: str, reason: str = "") -> Promotion:
        """Makes the previous model the champion again. Raises NothingPromotedError, BaseMismatchError, AdapterError."""
        self._champions.check_base(project)
        with self._champions.hold_changes():
            model_id = self._store.promotions.find_previous(project, task)
            ensemble = None
            if model_id is not None:
                ensemble = self._ensembles.build(project, self._store.models.get_model(project, model_id))
            with self._champions.load_adapters(ensemble):
                promotion = self._store.promotions.roll_back(project, task, author, reason)
            self._champions.set_champion(project, task, ensemble)
        return promotion

    def find_champions(self, project: Project) -> dict[str, Ensemble]:
        """Returns the ensembles of a project's champions by task. They are not loaded."""
        models = {model.id: model for model in self._store.models.list_models(project)}
        return {
            task: self._ensembles.build(project, models[model_id])
            for task, model_id in self._store.promotions.list_champions(project).items()
            if model_id is not None
        }
